import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import Error
from django.template.defaultfilters import pluralize

from mailer.conf import options as settings
from mailer.delivery import broker
from mailer.feedback import mailbox
from mailer.feedback.bounce_mail import take
from mailer.feedback.opened import LONGEST
from mailer.management.operator import OperatorCommand

TRY_AGAIN = os.EX_TEMPFAIL
"""75 (sysexits.h): a mail server that runs this command keeps the mail and tries again later."""
POSTFIX = ("ORIGINAL_RECIPIENT", "RECIPIENT")
"""Variables in which Postfix's local(8) says for whom the mail is."""


class Command(OperatorCommand):
    help = (
        "Read a mail that came to the address for bounces, from standard input, and store what it reports. For an alias of "
        "Postfix, or with files, or with a mailbox. A mail that is no bounce is ignored. Exit code: 0, or 75 if it has to be "
        "tried again, because the database is away or the mailbox cannot be read. Example: read_bounces < mail"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="a mail, or a folder of .eml files")
        parser.add_argument("--to", action="append", default=[], metavar="ADDRESS", help="to whom it was delivered")
        parser.add_argument("--imap", action="store_true", help="read the mailbox of POSTCOMMIT_BOUNCE_MAILBOX")
        parser.add_argument("--delete", action="store_true", help="with --imap: delete the bounces that were read")

    def handle(self, *args: Any, paths: list[Path], to: list[str], **options: Any) -> None:
        try:
            if options["imap"]:
                said, reports = self._read_mailbox(delete=options["delete"])
            else:
                said, reports = self._read_mails(paths, to)
        except Error as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CommandError(f"The database does not answer: {reason}", returncode=TRY_AGAIN) from None
        if reports:
            broker.publish_events(reports)
        self.stdout.write(f"{said}.")

    def _read_mails(self, paths: list[Path], to: list[str]) -> tuple[str, int]:
        named = [*to, *filter(None, map(os.environ.get, POSTFIX))]
        mails = _of_files(paths) if paths else _of_standard_input()
        numbers = [take(raw, named) for raw in mails]
        mails_read = f"{len(numbers)} mail{pluralize(len(numbers))} read"
        return f"{mails_read}, {sum(numbers)} report{pluralize(sum(numbers))} stored", sum(numbers)

    def _read_mailbox(self, *, delete: bool) -> tuple[str, int]:
        if not settings().bounce_mailbox:
            raise CommandError("POSTCOMMIT_BOUNCE_MAILBOX is not set.")
        try:
            run = mailbox.read(mailbox.Mailbox.from_url(settings().bounce_mailbox), take, delete=delete)
        except mailbox.NotRead as error:
            raise CommandError(f"The mailbox cannot be read: {error}.", returncode=TRY_AGAIN) from None
        return str(run), run.reports


def _of_standard_input() -> Iterator[bytes]:
    """Yield the beginning of the mail. The rest is read too: a mail server would take a closed pipe for a failure."""
    if sys.stdin.isatty():
        raise CommandError("Give it a mail: read_bounces < mail, read_bounces mail.eml, or read_bounces --imap.")
    yield sys.stdin.buffer.read(LONGEST)
    while sys.stdin.buffer.read(LONGEST):
        pass


def _of_files(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        for each in sorted(path.glob("*.eml")) if path.is_dir() else [path]:
            try:
                with each.open("rb") as file:
                    raw = file.read(LONGEST)
            except OSError as error:
                raise CommandError(f"{error.filename}: {error.strerror}") from None
            yield raw
