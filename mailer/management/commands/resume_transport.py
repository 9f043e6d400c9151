from argparse import ArgumentParser
from typing import Any

from mailer.delivery import circuit, quota, sweep
from mailer.delivery.pulse import paused
from mailer.management.operator import OperatorCommand
from mailer.management.transport import known_transport


class Command(OperatorCommand):
    help = (
        "Continue a transport that a person paused. If workers paused it because it did not work, they try it now. "
        "Example: resume_transport transport"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("alias", metavar="ALIAS", help="its name in MAILERS, such as transport or fallback")

    def handle(self, *args: Any, alias: str, **options: Any) -> None:
        if not circuit.resume(known_transport(alias)):
            self.stdout.write(f"The transport {alias!r} was not paused.")
            for pause in quota.used_up([alias]).get(alias, []):
                self.stdout.write(paused(pause))
            return
        sweep.kick_queues()
        self.stdout.write(f"The transport {alias!r} is used again. Workers take the mail that waits for it now.")
