from typing import Any

from django.template.defaultfilters import pluralize

from mailer.delivery import sweep
from mailer.delivery.heartbeat import heartbeat
from mailer.management.operator import OperatorCommand
from mailer.models import Role


class Command(OperatorCommand):
    help = "Run the sweep once: settle the claims of dead workers and kick the queues that have due messages."

    def handle(self, *args: Any, **options: Any) -> None:
        heartbeat.role = Role.COMMAND
        heartbeat.beat()
        settled, expired, kicked = sweep.settle_claims_of_dead_workers(), sweep.expire_overdue(), sweep.kick_queues()
        heartbeat.end()
        self.stdout.write(
            f"{settled} claim{pluralize(settled)} of dead workers settled, {expired} message{pluralize(expired)} expired, "
            f"{kicked} queue{pluralize(kicked)} kicked."
        )
