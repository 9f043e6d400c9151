"""Who wants to know how a message ended is told, in the transaction that ends it, and harms nobody."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline, settle
from mailer.models import Message, State, Suppression
from mailer.signals import message_settled
from tests.mailer.kinds import Broken, Fleeting, Plain, Receipt
from tests.smtp_sink import CUT, Sink

pytestmark = pytest.mark.django_db(transaction=True)

Receiver = Callable[..., None]


@pytest.fixture
def listen() -> Iterator[Callable[..., None]]:
    """Connects a receiver for the time of a test."""
    connected: list[tuple[Receiver, Any]] = []

    def connect(receiver: Receiver, sender: Any = None) -> None:
        message_settled.connect(receiver, sender=sender, weak=False)
        connected.append((receiver, sender))

    yield connect
    for receiver, sender in connected:
        message_settled.disconnect(receiver, sender=sender)


@pytest.fixture
def told(listen: Callable[..., None]) -> list[tuple[Any, int, str]]:
    """Class, message and state of everything that was told so far."""
    said: list[tuple[Any, int, str]] = []

    def note(sender: Any, message: Message, **_: Any) -> None:
        assert connection.in_atomic_block
        assert message.settled_at is not None
        said.append((sender, message.pk, message.state))

    listen(note)
    return said


def deliver(message: Message) -> Message:
    Message.objects.filter(pk=message.pk).update(due_at=timezone.now())
    pipeline.deliver(message.pk)
    message.refresh_from_db()
    return message


def test_each_end_is_told_once(user: User, smtp: Sink, told: list[Any]) -> None:
    deliver(sent := outbox.enqueue(Plain(user)))
    deliver(failed := outbox.enqueue(Broken(user)))
    deliver(expired := outbox.enqueue(Fleeting(user)))
    smtp.script.once["RCPT"] = deque(["550 5.1.1 no such user"])
    deliver(refused := outbox.enqueue(Plain(user)))
    deliver(suppressed := outbox.enqueue(Plain(user)))
    User.objects.update(is_active=False)
    deliver(unwanted := outbox.enqueue(Plain(user)))

    assert told == [
        (Plain, sent.pk, State.SENT),
        (Broken, failed.pk, State.FAILED),
        (Fleeting, expired.pk, State.EXPIRED),
        (Plain, refused.pk, State.FAILED),
        (Plain, suppressed.pk, State.SUPPRESSED),
        (Plain, unwanted.pk, State.CANCELLED),
    ]


def test_what_a_person_decides_is_told_as_well(user: User, smtp: Sink, told: list[Any]) -> None:
    dropped, arrived = (outbox.enqueue(Receipt(user)) for _ in range(2))
    smtp.script.always["BODY"] = CUT
    deliver(arrived)
    assert told == []  # it is held, which is no end

    outbox.mark_as_delivered(Message.objects.filter(pk=arrived.pk), reason="she says so")
    outbox.cancel(dropped)
    outbox.cancel(dropped)

    assert told == [(Receipt, arrived.pk, State.SENT), (Receipt, dropped.pk, State.CANCELLED)]


def test_what_goes_on_is_not_told(user: User, smtp: Sink, told: list[Any]) -> None:
    smtp.script.once["RCPT"] = deque(["451 4.7.1 later"])
    message = deliver(outbox.enqueue(Plain(user)))
    assert (message.state, told) == (State.RETRYING, [])

    Message.objects.update(state=State.FAILED, settled_at=timezone.now())
    outbox.retry(Message.objects.all(), reason="again")
    assert told == []


def test_a_receiver_of_one_kind_hears_of_no_other(user: User, smtp: Sink, listen: Callable[..., None]) -> None:
    heard = []
    listen(lambda sender, message, **_: heard.append(message.kind), Receipt)

    deliver(outbox.enqueue(Plain(user)))
    deliver(outbox.enqueue(Receipt(user)))

    assert heard == ["tests.Receipt"]


def test_a_kind_that_is_gone_is_told_to_those_who_hear_of_everything(user: User, told: list[Any]) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(kind="tests.GoneWithTheLastRelease")

    outbox.cancel(message)

    assert told == [(None, message.pk, State.CANCELLED)]


def test_what_a_receiver_writes_commits_with_the_outcome_or_not_at_all(
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
    except Exception:  # noqa: S110 - the mistake that is tried here
        pass


@pytest.mark.parametrize("receiver", [divide, break_a_constraint, swallow_an_error_of_the_database])
def test_a_receiver_that_fails_is_logged_and_undone_and_the_outcome_stands(
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


@pytest.fixture
def calls(listen: Callable[..., None]) -> list[str]:
    """The states that a receiver was told, under which the server ends the connection when it is first called."""
    calls: list[str] = []

    def cut_once(sender: Any, message: Message, **_: Any) -> None:
        calls.append(message.state)
        if len(calls) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    listen(cut_once)
    return calls


def test_a_receiver_under_which_the_database_goes_away_costs_no_second_mail(
    user: User, smtp: Sink, calls: list[str]
) -> None:
    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, calls, len(smtp.received)) == (State.SENT, [State.SENT], 1)  # it is not asked once more


def test_a_receiver_under_which_the_database_goes_away_stops_no_end_without_an_attempt(
    user: User, smtp: Sink, calls: list[str]
) -> None:
    message = deliver(outbox.enqueue(Fleeting(user)))

    assert (message.state, calls) == (State.EXPIRED, [State.EXPIRED])


def test_without_receivers_nothing_is_asked(user: User) -> None:
    message = outbox.enqueue(Plain(user))

    with CaptureQueriesContext(connection) as captured:
        outbox.cancel(message)

    assert [query["sql"].split()[0] for query in captured.captured_queries] == ["DECLARE", "BEGIN", "UPDATE", "COMMIT"]
