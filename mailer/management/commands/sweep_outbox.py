from typing import Any

from django.core.management.base import BaseCommand
from django.template.defaultfilters import pluralize

from mailer.delivery import sweep
from mailer.delivery.heartbeat import heartbeat


class Command(BaseCommand):
    help = "Run the sweep once: settle the claims of dead workers and kick the queues that have due messages."
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def handle(self, *args: Any, **options: Any) -> None:
        heartbeat.beat()
        settled, expired, kicked = sweep.settle_claims_of_dead_workers(), sweep.expire_overdue(), sweep.kick_queues()
        heartbeat.end()
        self.stdout.write(
            f"{settled} claim{pluralize(settled)} of dead workers settled, {expired} message{pluralize(expired)} expired, "
            f"{kicked} queue{pluralize(kicked)} kicked."
        )
