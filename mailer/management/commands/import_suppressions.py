from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import connection, transaction
from django.template.defaultfilters import pluralize

from mailer.management.operator import OperatorCommand
from mailer.management.progress import Progress
from mailer.models import Cause, Suppression
from mailer.recipients import suppression_file
from mailer.recipients.suppression_file import OURS, Entry, GetsMail, NoList, Wrong

BATCH = 5_000
"""Addresses of one statement, and of one transaction."""
NAMED = 20
"""Lines that cannot be read and are named one by one; of the others it tells the number."""
UNREAD = 1
"""The exit code if a line, or the file, could not be read."""

INSERT = f"""
INSERT INTO {Suppression._meta.db_table} ({", ".join(OURS)})
SELECT address, stream, cause, source, reason, coalesce(created_at, statement_timestamp())
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[]) AS line ({", ".join(OURS)})
ON CONFLICT DO NOTHING
"""  # noqa: S608 - the names are our own model's


class Command(OperatorCommand):
    help = (
        "Read addresses that get no mail from a CSV file: of export_suppressions, or the list that your provider lets you "
        "download (Postmark, SendGrid, Mailgun, Amazon SES, Brevo, Mailjet and others). An address that is suppressed already "
        "stays as it is. An unsubscribe at a provider stops the mail of all streams, every other cause stops all mail. "
        "Exit code: 0, or 1 if a line could not be read; the other lines are imported. "
        "Example: import_suppressions bounces.csv --cause bounce --source SendGrid --dry-run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="a CSV file, or a list with an address a line")
        parser.add_argument("--cause", choices=Cause.values, help="of the lines that do not name one that is known")
        parser.add_argument(
            "--source", default="", metavar="NAME", help="who reported them, if the file does not say so"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="read all of it and say what would happen; change nothing"
        )

    def handle(self, *args: Any, file: Path, cause: str | None, source: str, dry_run: bool, **options: Any) -> None:
        self.counts: Counter[str] = Counter()
        progress = Progress(self.stderr, "lines")
        try:
            with suppression_file.open_list(file) as text:
                lines = suppression_file.read(text, Cause(cause) if cause else None, source.strip())
                for batch in batched(self._entries(lines, progress), BATCH, strict=False):
                    self.counts["read"] += len(batch)
                    self.counts["new"] += _insert(batch, dry_run=dry_run)
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}", returncode=UNREAD) from None
        except NoList as error:
            raise CommandError(f"{file}: {error}.", returncode=UNREAD) from None
        progress.end()
        self.stdout.write("\n".join(_report(self.counts, dry_run=dry_run)))
        if unread := self.counts["unread"]:
            raise CommandError(f"{unread:,} line{pluralize(unread)} could not be read.", returncode=UNREAD)

    def _entries(self, lines: Iterator[Entry | Wrong | GetsMail], progress: Progress) -> Iterator[Entry]:
        for line in lines:
            progress()
            match line:
                case Entry():
                    self.counts["undated"] += line.created_at is None
                    yield line
                case GetsMail():
                    self.counts["gets_mail"] += 1
                case Wrong():
                    self.counts["unread"] += 1
                    if self.counts["unread"] <= NAMED:
                        self.stderr.write(f"Line {line.line}: {line.why}.")


@transaction.atomic
def _insert(batch: Sequence[Entry], *, dry_run: bool) -> int:
    """Insert the addresses that are not suppressed yet, and return their number. In a dry run they are taken back."""
    with connection.cursor() as cursor:
        cursor.execute(INSERT, [list(column) for column in zip(*batch, strict=True)])
        transaction.set_rollback(dry_run)
        return int(cursor.rowcount)


def _report(counts: Counter[str], *, dry_run: bool) -> Iterator[str]:
    new, known = counts["new"], counts["read"] - counts["new"]
    would = "would be " if dry_run else ""
    yield f"{new:,} address{pluralize(new, 'es')} {would}imported, {known:,} suppressed already or named twice."
    if undated := counts["undated"]:
        yield f"{undated:,} without a time that can be read: the time of the import is kept."
    if skipped := counts["gets_mail"]:
        yield f"{skipped:,} skipped: the file says that the address gets mail."
