import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError
from django.db.models import Count
from django.template.defaultfilters import pluralize

from mailer.delivery.explain import look, tally
from mailer.models import Message, State, Suppression

TOO_LATE, UNKNOWN = 1, 2
"""Exit codes; 0 if all is well."""


class Command(BaseCommand):
    help = (
        "Show the number of messages in each state, what waits and why, paused transports and workers. "
        "Exit code: 0 if nothing waits too long, 1 if something does, 2 if the database does not answer. "
        "Example: mail_status --json"
    )
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument(
            "--longest", type=float, default=300, metavar="SECONDS", help="a longer wait is too long (default: 300)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            status = _status(timedelta(seconds=options["longest"]))
        except (DatabaseError, InterfaceError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CommandError(f"The database does not answer: {reason}", returncode=UNKNOWN) from None
        self.stdout.write(json.dumps(status) if options["json"] else "\n".join(_lines(status)))
        if late := sum(status["waiting"].values()):
            waits = f"{late} message{pluralize(late)} {pluralize(late, 'has,have')} waited"
            raise CommandError(f"{waits} for more than {options['longest']:g} s.", returncode=TOO_LATE)


def _status(longest: timedelta) -> dict[str, Any]:
    situation = look()
    counts = dict(Message.objects.order_by().values_list("state").annotate(Count("pk")))
    return {
        "states": {state.value: counts.get(state.value, 0) for state in State},
        "oldest_due_seconds": Message.objects.age_of_oldest_due(),
        "waiting": {reason.sentence: number for reason, number in tally(situation, Message.objects.late(longest))},
        "workers": len(situation.workers),
        "paused": [
            {
                "transport": circuit.transport,
                "host": circuit.host,
                "since": circuit.paused_since and circuit.paused_since.isoformat(timespec="seconds"),
                "until": circuit.paused_until and circuit.paused_until.isoformat(timespec="seconds"),
                "needs_person": circuit.needs_person,
                "reason": circuit.reason,
            }
            for circuit in situation.circuits
        ],
        "suppressed_addresses": Suppression.objects.filter(stream="").count(),
    }


def _lines(status: dict[str, Any]) -> list[str]:
    return [
        *(f"{state:<12}{count:>8}" for state, count in status["states"].items()),
        f"The oldest due message has waited {status['oldest_due_seconds']} s.",
        f"{status['workers']} worker process{pluralize(status['workers'], 'es')} running.",
        *(_paused(circuit) for circuit in status["paused"]),
        f"{status['suppressed_addresses']} addresses are suppressed.",
        *(f"{number} waiting too long: {sentence}" for sentence, number in status["waiting"].items()),
    ]


def _paused(circuit: dict[str, Any]) -> str:
    host = f" on the host {circuit['host']}" if circuit["host"] else ""
    person = " A person must correct it." if circuit["needs_person"] else ""
    return (
        f"The transport {circuit['transport']!r} is paused{host} since {circuit['since']}, until {circuit['until']}: "
        f"{circuit['reason']}.{person}"
    )
