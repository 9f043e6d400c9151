from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import connection, transaction

from mailer.management.operator import OperatorCommand
from mailer.management.progress import Progress
from mailer.models import Suppression
from mailer.recipients.suppression_file import OURS

EXPORT = f"""
COPY (
    SELECT address, stream, cause, source, reason, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    FROM {Suppression._meta.db_table} ORDER BY id
) TO STDOUT (FORMAT csv)
"""  # noqa: S608 - the name is our own model's


class Command(OperatorCommand):
    help = (
        "Write all addresses that get no mail as CSV, for import_suppressions of another site. An address that was erased is "
        "written as its hash, which that site knows only if it has the same SECRET_KEY. "
        "Example: export_suppressions --output suppressions.csv"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--output", type=Path, metavar="PATH", help="write a file that only you may read")

    def handle(self, *args: Any, output: Path | None, **options: Any) -> None:
        if output is None:
            _export(lambda data: self.stdout.write(data.decode(), ending=""), lambda: None)
            return
        progress = Progress(self.stderr, "addresses")
        try:
            output.touch(mode=0o600)
            output.chmod(0o600)  # the file of an earlier export may be readable for others
            with output.open("wb") as file:
                _export(file.write, progress)
        except OSError as error:
            raise CommandError(f"{error.filename or output}: {error.strerror}") from None
        progress.end()
        self.stdout.write(f"{progress.done:,} addresses written to {output}")


def _export(write: Callable[[bytes], object], written: Callable[[], object]) -> None:
    """Write line by line: PostgreSQL sends each row by itself, and no list of them is in memory."""
    write(f"{','.join(OURS)}\n".encode())
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")  # who reads it may be slow
        with cursor.copy(EXPORT) as rows:
            for row in rows:
                write(bytes(row))
                written()
