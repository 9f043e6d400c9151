"""The clock of the database, and the errors that say that it is away, as opposed to a statement that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
from django.db import Error, InterfaceError, OperationalError, connection
from django.db.backends.utils import CursorWrapper

AWAY = {
    "08": "connection lost or refused",
    "25006": "read-only: a failover is under way",
    "25P03": "ended because the transaction was idle",
    "40": "rolled back because of another transaction",
    "53": "out of connections, memory or disk",
    "55P03": "a lock was not free in time",
    "57": "shutting down, or the statement took too long",
    "58": "an error of its operating system",
}
"""SQLSTATE classes and codes (PostgreSQL's manual, appendix A) of errors that pass without a change of the statement."""


def is_away(error: BaseException) -> bool:
    """Return whether the database cannot answer now, so that the same work is worth another try later.

    An error without an SQLSTATE comes from the client library: the connection broke, was refused, or is closed.
    """
    if not isinstance(error, Error):  # Django's, in which it wraps the driver's
        return False
    state = getattr(error.__cause__, "sqlstate", None)
    return state.startswith(tuple(AWAY)) if state else isinstance(error, OperationalError | InterfaceError)


def now() -> datetime:
    """Return the time by the clock of the database, which all machines share."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment


def answers() -> bool:
    """Return whether the database answers now. If it does, an error was about one statement, or about another database."""
    try:
        now()
    except Error:
        return False
    return True


@contextmanager
def hot_cursor() -> Iterator[CursorWrapper]:
    """Open a cursor for a statement that every mail needs: the server parses and plans it once for each connection.

    Its parameters are sent beside the statement, not in it. It is prepared if `prepare_threshold` is in the OPTIONS of the
    database; with pgbouncer in front, which lends connections by transaction, leave that out.
    """
    connection.ensure_connection()
    cursor: Any
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        yield connection.make_debug_cursor(cursor) if connection.queries_logged else connection.make_cursor(cursor)
