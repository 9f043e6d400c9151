from argparse import ArgumentParser
from typing import Any

from mailer.delivery import streams
from mailer.feedback import reputation
from mailer.management.operator import OperatorCommand
from mailer.management.stream import known_stream


class Command(OperatorCommand):
    help = (
        "Let the mail of a paused stream go on. Reports of spam about mail that was sent before do not pause it again. "
        "Example: resume_stream news"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("stream", metavar="STREAM", help="its name, as the e-mail's class has it")

    def handle(self, *args: Any, stream: str, **options: Any) -> None:
        if not reputation.resume(known_stream(stream)):
            self.stdout.write(f"The stream {stream!r} was not paused.")
            return
        streams.make_due()
        self.stdout.write(f"The stream {stream!r} goes on. Workers take the mail that waits for it in some seconds.")
