"""Which errors mean that the database is away. Row 18 of issue 14; the errors come from a real PostgreSQL."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import Error, InterfaceError, OperationalError, connection, transaction

from accounts.models import User
from mailer import outbox, tasks
from mailer.database import AWAY, is_away
from mailer.delivery import pipeline
from mailer.models import Message, Outcome, State, Suppression
from mailer.transports import transmit
from tests.mailer.kinds import Plain, Receipt
from tests.mailer.worker import deliver
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)

PASSES = {
    "08000": "connection_exception",
    "08003": "connection_does_not_exist",
    "08006": "connection_failure",
    "08P01": "protocol_violation, as PgBouncer says",
    "25006": "read_only_sql_transaction: a failover",
    "25P03": "idle_in_transaction_session_timeout",
    "40001": "serialization_failure",
    "40P01": "deadlock_detected",
    "53000": "insufficient_resources",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "53300": "too_many_connections",
    "55P03": "lock_not_available",
    "57014": "query_canceled: statement_timeout",
    "57P01": "admin_shutdown",
    "57P02": "crash_shutdown",
    "57P03": "cannot_connect_now: it is starting",
    "58000": "system_error",
    "58030": "io_error",
}
STAYS = {
    "22001": "string_data_right_truncation",
    "22012": "division_by_zero",
    "22P05": "untranslatable_character",
    "23502": "not_null_violation",
    "23505": "unique_violation",
    "23514": "check_violation",
    "25001": "active_sql_transaction",
    "25P02": "in_failed_sql_transaction",
    "42501": "insufficient_privilege",
    "42601": "syntax_error",
    "42P01": "undefined_table",
    "42703": "undefined_column: the migration is missing",
    "P0001": "raise_exception",
    "XX000": "internal_error",
}


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def caught(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011 - which one it is, is the question
        action()
    return info.value


@pytest.mark.parametrize("state", [*PASSES, *STAYS])
def test_the_sqlstate_decides(state: str) -> None:
    error = caught(lambda: run(f"DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{state}'; END $$"))

    assert isinstance(error, Error)
    assert getattr(error.__cause__, "sqlstate", None) == state
    assert is_away(error) == (state in PASSES)


def test_each_class_of_the_table_has_a_sample() -> None:
    assert all(any(state.startswith(prefix) for state in PASSES) for prefix in AWAY)


def end_my_connection() -> None:
    with psycopg.connect(**own_parameters()) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def own_parameters() -> dict[str, Any]:
    return {name: value for name, value in connection.get_connection_params().items() if name in PARAMETERS}


PARAMETERS = ("dbname", "user", "password", "host", "port")


def test_a_lost_connection_is_away() -> None:
    run("SELECT 1")
    end_my_connection()

    assert is_away(caught(lambda: run("SELECT 1")))
    assert is_away(caught(lambda: run("SELECT 1")))  # closed by now: an InterfaceError, or the same again
    connection.close()


def test_a_refused_connection_is_away() -> None:
    parameters = own_parameters() | {"host": "127.0.0.1", "port": 1}

    def connect() -> None:
        with connection.wrap_database_errors:
            psycopg.connect(**parameters)

    assert is_away(caught(connect))


def test_a_statement_that_takes_too_long_is_away() -> None:
    run("SET statement_timeout = '50ms'")
    assert is_away(caught(lambda: run("SELECT pg_sleep(5)")))
    connection.close()


def test_a_transaction_that_was_ended_because_it_was_idle_is_away() -> None:
    def idle() -> None:
        with transaction.atomic():
            run("SET idle_in_transaction_session_timeout = '50ms'")
            time.sleep(0.3)
            run("SELECT 1")

    assert is_away(caught(idle))
    connection.close()


@pytest.mark.parametrize(
    "error",
    [ValueError(), OSError("connection refused"), TimeoutError(), psycopg.OperationalError("not wrapped by Django")],
)
def test_other_errors_say_nothing_about_the_database(error: Exception) -> None:
    assert not is_away(error)


@pytest.mark.parametrize("error", [OperationalError("the connection is closed"), InterfaceError("closed")])
def test_an_error_of_the_client_library_has_no_sqlstate(error: Error) -> None:
    assert is_away(error)


# A failover under the dot.


@pytest.fixture
def writable_again() -> Iterator[None]:
    yield
    read_only(is_on=False)
    connection.close()


def read_only(*, is_on: bool) -> None:
    """Make the database read-only for all new connections, as a server is that became a standby."""
    with psycopg.connect(**own_parameters(), autocommit=True) as other:
        other.execute("SET default_transaction_read_only = off")
        other.execute(f"ALTER DATABASE {connection.settings_dict['NAME']} SET default_transaction_read_only = {is_on}")


@pytest.mark.parametrize("seconds", [0.0, 1.2])
def test_what_the_server_said_is_kept_while_the_database_is_read_only(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch, writable_again: None, seconds: float
) -> None:
    def fail_over(*args: Any, **kwargs: Any) -> Any:
        outcome = transmit.transmit(*args, **kwargs)
        if seconds:
            read_only(is_on=True)
            threading.Timer(seconds, read_only, kwargs={"is_on": False}).start()
        run("SET default_transaction_read_only = on")
        return outcome

    monkeypatch.setattr(pipeline, "transmit", fail_over)
    message = outbox.enqueue(Receipt(user))
    began = time.monotonic()
    deliver(message)

    assert (message.state, message.attempts, len(smtp.received)) == (State.SENT, 1, 1)
    assert message.delivery_attempts.get().outcome == Outcome.ACCEPTED
    assert seconds <= time.monotonic() - began < seconds + 15


def test_a_refusal_is_kept_too_with_the_suppression_that_follows(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch, writable_again: None
) -> None:
    def fail_over(*args: Any, **kwargs: Any) -> Any:
        outcome = transmit.transmit(*args, **kwargs)
        run("SET default_transaction_read_only = on")
        return outcome

    monkeypatch.setattr(pipeline, "transmit", fail_over)
    smtp.script.always["RCPT"] = "550 5.1.1 no such user"
    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, message.attempts) == (State.FAILED, 1)
    assert Suppression.objects.count() == 1


def test_a_task_meets_a_read_only_database_and_harms_no_message(user: User, smtp: Sink, writable_again: None) -> None:
    message = outbox.enqueue(Plain(user))
    run("SET default_transaction_read_only = on")

    assert tasks.deliver_due("default") == "database away"
    message.refresh_from_db()
    assert (message.state, message.attempts, smtp.received) == (State.QUEUED, 0, [])

    assert tasks.deliver_due("default") == "1 messages tried"
    assert Message.objects.get().state == State.SENT
