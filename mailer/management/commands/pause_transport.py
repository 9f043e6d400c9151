from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from mailer import routes
from mailer.delivery import circuit
from mailer.management.operator import OperatorCommand, duration
from mailer.management.transport import known_transport


class Command(OperatorCommand):
    help = (
        "Pause a transport on all hosts, until resume_transport or for a time. Mail to it waits, and workers do not try it. "
        "Mail on the default route takes the fallback, if there is one. What is being sent at this moment ends normally. "
        "Example: pause_transport transport --reason 'moving to a new provider' --for 2h"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("alias", metavar="ALIAS", help="its name in MAILERS, such as transport or fallback")
        parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who ask why their mail waits")
        parser.add_argument("--for", type=duration, dest="length", metavar="TIME", help="90s, 30m, 2h or 7d")

    def handle(self, *args: Any, alias: str, reason: str, length: timedelta | None, **options: Any) -> None:
        circuit.pause_by_person(known_transport(alias), reason.strip(), length)
        until = f"for {length}" if length else f"until you run resume_transport {alias}"
        self.stdout.write(f"The transport {alias!r} is paused {until}.")
        if alias == routes.PRIMARY and routes.FALLBACK in routes.transports():
            self.stdout.write(f"Mail on the default route takes {routes.FALLBACK!r} meanwhile.")
