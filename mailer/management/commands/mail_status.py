import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db.models import Count
from django.template.defaultfilters import pluralize

from mailer.delivery.explain import tally
from mailer.delivery.pulse import health, look
from mailer.management.operator import OperatorCommand
from mailer.models import Message, State, Suppression

TOO_LATE = 1
"""The exit code if something waits too long."""


class Command(OperatorCommand):
    help = (
        "Show the number of messages in each state, what waits and why, paused transports and workers. "
        "Exit code: 0 if nothing waits too long, 1 if something does, 2 if the database does not answer. "
        "Example: mail_status --json"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument(
            "--longest", type=float, default=300, metavar="SECONDS", help="a longer wait is too long (default: 300)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        status = _status(timedelta(seconds=options["longest"]))
        self.stdout.write(json.dumps(status) if options["json"] else "\n".join(_lines(status)))
        if late := sum(status["waiting"].values()):
            waits = f"{late} message{pluralize(late)} {pluralize(late, 'has,have')} waited"
            raise CommandError(f"{waits} for more than {options['longest']:g} s.", returncode=TOO_LATE)


def _status(longest: timedelta) -> dict[str, Any]:
    pulse = look()
    counts = dict(Message.objects.order_by().values_list("state").annotate(Count("pk")))
    return {
        "states": {state.value: counts.get(state.value, 0) for state in State},
        "oldest_due_seconds": Message.objects.age_of_oldest_due(),
        "health": [line.sentence for line in health(pulse) if not line.is_well],
        "waiting": {cause.explanation.sentence: cause.number for cause in tally(pulse, Message.objects.late(longest))},
        "workers": len(pulse.workers),
        "paused": [
            {
                "transport": circuit.transport,
                "host": circuit.host,
                "since": circuit.paused_since and circuit.paused_since.isoformat(timespec="seconds"),
                "until": circuit.ends_at and circuit.ends_at.isoformat(timespec="seconds"),
                "needs_person": circuit.needs_person,
                "by_person": circuit.by_person,
                "reason": circuit.reason,
            }
            for circuit in pulse.circuits
        ],
        "suppressed_addresses": Suppression.objects.filter(stream="").count(),
    }


def _lines(status: dict[str, Any]) -> list[str]:
    return [
        *(f"{state:<12}{count:>8}" for state, count in status["states"].items()),
        f"The oldest due message has waited {status['oldest_due_seconds']} s.",
        f"{status['workers']} worker process{pluralize(status['workers'], 'es')} running.",
        f"{status['suppressed_addresses']} addresses are suppressed.",
        *status["health"],
        *(f"{number} waiting too long: {sentence}" for sentence, number in status["waiting"].items()),
    ]
