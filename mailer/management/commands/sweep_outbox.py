from typing import Any

from django.core.management.base import BaseCommand

from mailer.delivery import sweep


class Command(BaseCommand):
    help = "Run the sweep once: re-queue overdue messages and settle the claims of dead workers."
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def handle(self, *args: Any, **options: Any) -> None:
        settled = sweep.settle_abandoned()
        published = sweep.publish_overdue()
        self.stdout.write(f"{published} messages published, {settled} abandoned claims settled.")
