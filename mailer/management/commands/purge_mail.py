from typing import Any

from django.core.management.base import BaseCommand

from mailer.conf import options as mailer_options
from mailer.delivery import retention


class Command(BaseCommand):
    help = "Delete settled messages that are older than POSTCOMMIT_RETENTION_DAYS, with their attempts."
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{retention.purge()} messages older than {mailer_options().retention_days} days deleted.")
