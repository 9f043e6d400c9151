"""message_settled is sent in the transaction that settles a message, and a failing receiver does no harm."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer import outbox, routes
from mailer.delivery import pipeline, settle, sweep
from mailer.models import Message, State, Suppression
from mailer.signals import message_settled
from mailer.transports import transmit
from tests.mailer.kinds import Broken, Fleeting, Plain, Receipt
from tests.mailer.worker import deliver_now as deliver
from tests.smtp_sink import CUT, Sink

pytestmark = pytest.mark.django_db(transaction=True)

Receiver = Callable[..., None]


@pytest.fixture
def listen() -> Iterator[Callable[..., None]]:
    """Connect a receiver for one test."""
    connected: list[tuple[Receiver, Any]] = []

    def connect(receiver: Receiver, sender: Any = None) -> None:
        message_settled.connect(receiver, sender=sender, weak=False)
        connected.append((receiver, sender))

    yield connect
    for receiver, sender in connected:
        message_settled.disconnect(receiver, sender=sender)


@pytest.fixture
def signalled(listen: Callable[..., None]) -> list[tuple[Any, int, str]]:
    """The class, message and state of each signal so far."""
    sent: list[tuple[Any, int, str]] = []

    def note(sender: Any, message: Message, **_: Any) -> None:
        assert connection.in_atomic_block
        assert message.settled_at is not None
        sent.append((sender, message.pk, message.state))

    listen(note)
    return sent


def test_each_final_state_is_signalled_once(user: User, smtp: Sink, signalled: list[Any]) -> None:
    deliver(sent := outbox.enqueue(Plain(user)))
    deliver(failed := outbox.enqueue(Broken(user)))
    deliver(expired := outbox.enqueue(Fleeting(user)))
    smtp.script.once["RCPT"] = deque(["550 5.1.1 no such user"])
    deliver(refused := outbox.enqueue(Plain(user)))
    deliver(suppressed := outbox.enqueue(Plain(user)))
    User.objects.update(is_active=False)
    deliver(unwanted := outbox.enqueue(Plain(user)))

    assert signalled == [
        (Plain, sent.pk, State.SENT),
        (Broken, failed.pk, State.FAILED),
        (Fleeting, expired.pk, State.EXPIRED),
        (Plain, refused.pk, State.FAILED),
        (Plain, suppressed.pk, State.SUPPRESSED),
        (Plain, unwanted.pk, State.CANCELLED),
    ]


def test_decisions_of_people_are_signalled(user: User, smtp: Sink, signalled: list[Any]) -> None:
    dropped, arrived = (outbox.enqueue(Receipt(user)) for _ in range(2))
    smtp.script.always["BODY"] = CUT
    deliver(arrived)
    assert signalled == []  # HELD is not settled

    outbox.mark_as_delivered(Message.objects.filter(pk=arrived.pk), reason="the customer says so")
    outbox.cancel(dropped)
    outbox.cancel(dropped)

    assert signalled == [(Receipt, arrived.pk, State.SENT), (Receipt, dropped.pk, State.CANCELLED)]


def test_other_states_are_not_signalled(user: User, smtp: Sink, signalled: list[Any]) -> None:
    smtp.script.once["RCPT"] = deque(["451 4.7.1 later"])
    message = deliver(outbox.enqueue(Plain(user)))
    assert (message.state, signalled) == (State.RETRYING, [])

    Message.objects.update(state=State.FAILED, settled_at=timezone.now())
    outbox.retry(Message.objects.all(), reason="again")
    assert signalled == []


def test_a_receiver_of_one_kind_gets_no_other(user: User, smtp: Sink, listen: Callable[..., None]) -> None:
    kinds = []
    listen(lambda sender, message, **_: kinds.append(message.kind), Receipt)

    deliver(outbox.enqueue(Plain(user)))
    deliver(outbox.enqueue(Receipt(user)))

    assert kinds == ["tests.Receipt"]


def test_a_deleted_kind_is_signalled_to_receivers_of_all_kinds(user: User, signalled: list[Any]) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(kind="tests.GoneWithTheLastRelease")

    outbox.cancel(message)

    assert signalled == [(None, message.pk, State.CANCELLED)]


def test_writes_of_a_receiver_commit_with_the_outcome_or_not_at_all(
    user: User, smtp: Sink, listen: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def write(sender: Any, message: Message, **_: Any) -> None:
        calls.append(message.state)
        Suppression.objects.create(address=f"note-{len(calls)}@example.com", reason="written by a receiver")

    def lose_the_database_once(*args: Any) -> None:
        monkeypatch.undo()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    listen(write)
    monkeypatch.setattr("mailer.delivery.settle.PAUSE", 0)
    monkeypatch.setattr(settle, "_suppress_unknown_addresses", lose_the_database_once)
    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, message.attempts, len(smtp.received)) == (State.SENT, 1, 1)
    assert calls == [State.SENT, State.SENT]
    assert list(Suppression.objects.values_list("address", flat=True)) == ["note-2@example.com"]


def divide(sender: Any, message: Message, **_: Any) -> None:
    Suppression.objects.create(address="note@example.com", reason="written by a receiver")
    outbox.enqueue(Plain(User.objects.get()))
    raise ZeroDivisionError


def break_a_constraint(sender: Any, message: Message, **_: Any) -> None:
    for _time in range(2):
        Suppression.objects.create(address="note@example.com", reason="written by a receiver")


def swallow_an_error_of_the_database(sender: Any, message: Message, **_: Any) -> None:
    Suppression.objects.create(address="note@example.com", reason="written by a receiver")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
    except Exception:  # noqa: S110 - the mistake under test
        pass


@pytest.mark.parametrize("receiver", [divide, break_a_constraint, swallow_an_error_of_the_database])
def test_a_failing_receiver_is_logged_and_rolled_back_and_the_outcome_stands(
    user: User,
    smtp: Sink,
    broker: redis.Redis,
    listen: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    receiver: Receiver,
) -> None:
    message = outbox.enqueue(Plain(user))
    tasks = broker.llen("default")
    listen(receiver)

    assert deliver(message).state == State.SENT

    assert "a receiver of message_settled failed" in caplog.text
    assert not Suppression.objects.exists()
    assert Message.objects.count() == 1
    assert broker.llen("default") == tasks
    outbox.cancel(other := outbox.enqueue(Plain(user)))
    other.refresh_from_db()
    assert other.state == State.CANCELLED


@pytest.fixture(params=["cut by the server", "closed by the receiver"])
def calls(request: pytest.FixtureRequest, listen: Callable[..., None]) -> list[str]:
    """The states that a receiver got. It loses the connection at its first call."""
    calls: list[str] = []

    def lose_once(sender: Any, message: Message, **_: Any) -> None:
        calls.append(message.state)
        if request.param == "closed by the receiver":
            connection.close()
        elif len(calls) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    listen(lose_once)
    return calls


def test_a_receiver_that_loses_the_connection_causes_no_second_mail(user: User, smtp: Sink, calls: list[str]) -> None:
    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, calls, len(smtp.received)) == (State.SENT, [State.SENT], 1)  # one call only


def test_a_receiver_that_loses_the_connection_does_not_stop_settling_without_an_attempt(
    user: User, smtp: Sink, calls: list[str]
) -> None:
    message = deliver(outbox.enqueue(Fleeting(user)))

    assert (message.state, calls) == (State.EXPIRED, [State.EXPIRED])


def test_without_receivers_there_is_no_query(user: User) -> None:
    message = outbox.enqueue(Plain(user))

    with CaptureQueriesContext(connection) as captured:
        outbox.cancel(message)

    assert [query["sql"].split()[0] for query in captured.captured_queries] == ["DECLARE", "BEGIN", "UPDATE", "COMMIT"]


def test_a_slow_receiver_does_not_block_the_sweep(
    user: User, smtp: Sink, listen: Callable[..., None], settings: Settings
) -> None:
    settings.POSTCOMMIT = {"CLAIM_LEASE": "2", "SMTP_TIMEOUT": "1"}
    entered, go = threading.Event(), threading.Event()

    def slow(sender: Any, message: Message, **_: Any) -> None:
        entered.set()
        go.wait(20)

    listen(slow)
    message = outbox.enqueue(Plain(user))

    def work() -> None:
        try:
            pipeline.deliver(message.pk)
        finally:
            transmit.close(routes.PRIMARY)
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert entered.wait(10)
        time.sleep(2.2)
        began = time.monotonic()
        assert sweep.settle_abandoned() == 0
        assert time.monotonic() - began < 2
    finally:
        go.set()
        worker.join()
    message.refresh_from_db()
    assert message.state == State.SENT
