from typing import Any

from django.core.management.base import BaseCommand

from mailer.delivery import sweep


class Command(BaseCommand):
    help = "Does once what beat has a worker do every few seconds: republishes strays, settles abandoned claims."
    requires_system_checks = ()  # one broken kind of e-mail must not keep an operator from the others

    def handle(self, *args: Any, **options: Any) -> None:
        settled = sweep.settle_abandoned()
        published = sweep.publish_overdue()
        self.stdout.write(f"{published} messages handed over to the workers, {settled} abandoned claims settled.")
