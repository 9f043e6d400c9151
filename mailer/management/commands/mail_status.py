import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Count

from mailer.models import Message, State, Suppression


class Command(BaseCommand):
    help = "Show the number of messages in each state, and the age of the oldest due one. Example: mail_status --json"
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        counts = dict(Message.objects.order_by().values_list("state").annotate(Count("pk")))
        status: dict[str, Any] = {
            "states": {state.value: counts.get(state.value, 0) for state in State},
            "oldest_due_seconds": Message.objects.age_of_oldest_due(),
            "suppressed_addresses": Suppression.objects.filter(stream="").count(),
        }
        if options["json"]:
            self.stdout.write(json.dumps(status))
            return
        for state, count in status["states"].items():
            self.stdout.write(f"{state:<12}{count:>8}")
        self.stdout.write(f"The oldest due message has waited {status['oldest_due_seconds']} s.")
        self.stdout.write(f"{status['suppressed_addresses']} addresses are suppressed.")
