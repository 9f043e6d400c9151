from argparse import ArgumentParser
from typing import Any

from django.template.defaultfilters import pluralize

from mailer.conf import options as mailer_options
from mailer.delivery import retention
from mailer.management.operator import OperatorCommand
from mailer.management.progress import Progress


class Command(OperatorCommand):
    help = (
        "Delete settled messages that are older than POSTCOMMIT_RETENTION_DAYS, with their attempts, and stored bodies "
        "that are older than POSTCOMMIT_BODY_RETENTION_DAYS. Beat does it every hour. Example: purge_mail --dry-run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say how many; delete nothing")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        if dry_run:
            messages, bodies = retention.purgeable()
            self.stdout.write(
                f"{messages} message{pluralize(messages)} would be deleted, and {bodies} stored "
                f"bod{pluralize(bodies, 'y,ies')}. Kinds may have a retention of their own."
            )
            return
        progress = Progress(self.stderr, "messages deleted")
        purged = retention.purge(progress)
        progress.end()
        self.stdout.write(f"{purged} messages older than {mailer_options().retention_days} days deleted.")
