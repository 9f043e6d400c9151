"""Projects that read from replicas: a replica may not have yet what the writer wrote a moment ago.

A mail whose row is not there yet would be cancelled, because what it is about "no longer exists".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import router
from django.db.models import Model

_reads_from_writer = ContextVar("reads from the writer", default=False)


class FromTheWriter:
    """A database router: the mailer's own rows, and in `reading_from_writer` all rows, are read where they are written."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        is_ours = model._meta.app_label == "mailer" or _reads_from_writer.get()
        return router.db_for_write(model, **hints) if is_ours else None


def install() -> None:
    """Let it decide before the project's routers."""
    router.routers.insert(0, FromTheWriter())


@contextmanager
def reading_from_writer() -> Iterator[None]:
    """Read every row from the database that takes its writes, also in a project's own code that is called meanwhile."""
    before = _reads_from_writer.set(True)
    try:
        yield
    finally:
        _reads_from_writer.reset(before)
