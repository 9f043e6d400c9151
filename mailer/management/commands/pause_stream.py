from argparse import ArgumentParser
from typing import Any

from mailer.feedback import reputation
from mailer.management.operator import OperatorCommand
from mailer.management.stream import known_stream


class Command(OperatorCommand):
    help = (
        "Pause a stream, the mails that recipients can unsubscribe from, until resume_stream. Its mail waits, and other mail "
        "goes on. A stream is paused by itself if more than 0.3 % of its mail of a day is reported as spam. "
        "Example: pause_stream news --reason 'wrong list'"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("stream", metavar="STREAM", help="its name, as the e-mail's class has it")
        parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who ask why their mail waits")

    def handle(self, *args: Any, stream: str, reason: str, **options: Any) -> None:
        reputation.pause(known_stream(stream), reason.strip())
        self.stdout.write(f"The stream {stream!r} is paused until you run resume_stream {stream}.")
