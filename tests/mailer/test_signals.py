"""message_settled follows the commit that settles a message. A receiver that fails, waits or dies does no harm, and is called
again.
"""

import base64
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from mailer import outbox, signals
from mailer.delivery import pipeline, settle, sweep
from mailer.delivery.broker import RECEIVERS_TASK
from mailer.models import Message, State, Suppression
from mailer.outcomes import Accepted
from mailer.signals import message_settled
from mailer.tasks import call_receivers
from mailer.transports import connections
from tests.at_once import at_once
from tests.mailer.kinds import Broken, Fleeting, Plain, Receipt
from tests.mailer.worker import claim_row
from tests.mailer.worker import deliver_now as deliver
from tests.servers import Valkey
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


def test_the_outcome_is_committed_before_the_receivers_run(user: User, smtp: Sink, listen: Callable[..., None]) -> None:
    seen: list[str] = []

    def look_from_another_connection(sender: Any, message: Message, **_: Any) -> None:
        states, _failures = at_once([lambda: Message.objects.values_list("state", flat=True).get(pk=message.pk)])
        seen.extend(states)

    listen(look_from_another_connection)
    deliver(outbox.enqueue(Plain(user)))

    assert seen == [State.SENT]


def test_receivers_of_an_outcome_that_is_recorded_twice_are_called_once(
    user: User, smtp: Sink, signalled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_database_once(*args: Any) -> None:
        monkeypatch.undo()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr("mailer.delivery.settle.PAUSE", 0)
    monkeypatch.setattr(settle, "_suppress_unknown_addresses", lose_the_database_once)
    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, message.attempts, len(smtp.received)) == (State.SENT, 1, 1)
    assert signalled == [(Plain, message.pk, State.SENT)]


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
    assert Message.objects.get().notify_at is not None  # they are called again
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
    assert Message.objects.get().notify_at is None


# --- Called again --------------------------------------------------------------------------------------------------


def pass_time(**time: float) -> None:
    """Make the outcomes older, as if this time had passed."""
    ago = timedelta(**time)
    Message.objects.filter(settled_at__isnull=False).update(settled_at=F("settled_at") - ago)
    Message.objects.filter(notify_at__isnull=False).update(notify_at=F("notify_at") - ago)


def called_by_tasks(broker: redis.Redis) -> list[list[int]]:
    """Run the tasks that call receivers again, as a worker does. Return the ids that each one named."""
    tasks = [json.loads(task) for task in broker.lrange("default", 0, -1)]
    broker.flushall()
    bodies = [json.loads(base64.b64decode(t["body"])) for t in tasks if t["headers"]["task"] == RECEIVERS_TASK]
    for [message_ids], _, _ in bodies:
        call_receivers(message_ids)
    return [message_ids for [message_ids], _, _ in bodies]


def test_a_receiver_that_raises_is_called_again_with_growing_pauses_for_a_day(
    user: User, smtp: Sink, broker: redis.Redis, listen: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []
    hours = 0.0

    def fail(sender: Any, message: Message, **_: Any) -> None:
        calls.append(hours * 3600)
        raise ZeroDivisionError

    listen(fail)
    deliver(outbox.enqueue(Plain(user)))
    while hours < 30:
        sweep.repeat_receivers()
        called_by_tasks(broker)
        step = 1 / 240 if hours < 0.25 else 0.25
        pass_time(hours=step)
        hours += step

    pauses = [later - earlier for earlier, later in pairwise(calls)]
    assert pauses[0] <= 60
    assert all(later >= earlier - 20 for earlier, later in pairwise(pauses))
    assert 8 <= len(calls) <= 15
    assert calls[-1] <= 24 * 3600
    assert Message.objects.get().notify_at is None
    assert caplog.text.count("they are not called again") == 1


def test_a_receiver_that_works_again_is_called_once_more_and_its_writes_commit(
    user: User, smtp: Sink, broker: redis.Redis, listen: Callable[..., None]
) -> None:
    calls: list[str] = []

    def fail_once(sender: Any, message: Message, **_: Any) -> None:
        calls.append(message.state)
        Suppression.objects.create(address=f"note-{len(calls)}@example.com", reason="written by a receiver")
        if len(calls) == 1:
            raise ZeroDivisionError

    listen(fail_once)
    message = deliver(outbox.enqueue(Plain(user)))
    for _ in range(3):
        pass_time(minutes=1)
        sweep.repeat_receivers()
        called_by_tasks(broker)

    assert calls == [State.SENT, State.SENT]
    assert list(Suppression.objects.values_list("address", flat=True)) == ["note-2@example.com"]
    message.refresh_from_db()
    assert message.notify_at is None


def test_a_process_killed_between_the_commit_and_the_receivers(
    user: User, smtp: Sink, broker: redis.Redis, listen: Callable[..., None]
) -> None:
    calls: list[int] = []

    def note(sender: Any, message: Message, **_: Any) -> None:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(message.pk)

    parent = os.getpid()
    listen(note)
    message = outbox.enqueue(Plain(user))
    connection.close()
    child = os.fork()
    if child == 0:
        try:
            outbox.cancel(message)
        finally:
            os._exit(1)  # the receiver did not kill it

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    message.refresh_from_db()
    assert (message.state, calls) == (State.CANCELLED, [])

    pass_time(minutes=1)
    sweep.repeat_receivers()
    called_by_tasks(broker)
    assert calls == [message.pk]


def test_one_task_calls_the_receivers_again_and_the_next_sweep_publishes_no_other(
    user: User, smtp: Sink, broker: redis.Redis, signalled: list[Any]
) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(3)]
    Message.objects.update(state=State.FAILED, settled_at=Now(), notify_at=Now())

    sweep.repeat_receivers()
    sweep.repeat_receivers()  # the first task still waits in its queue

    assert [sorted(ids) for ids in called_by_tasks(broker)] == [[message.pk for message in messages]]
    assert sorted(pk for _, pk, _ in signalled) == [message.pk for message in messages]


@pytest.mark.usefixtures("broker")
def test_while_the_broker_is_away_the_pauses_do_not_grow(
    user: User, signalled: list[Any], valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.enqueue(Plain(user))
    Message.objects.update(state=State.FAILED, settled_at=Now(), notify_at=Now())
    valkey.stop()
    try:
        sweep.repeat_receivers()
    finally:
        valkey.start()

    assert len(signals.overdue()) == 1


@contextmanager
def in_a_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


@pytest.fixture
def waiting(listen: Callable[..., None]) -> Iterator[tuple[threading.Event, threading.Event, list[str]]]:
    """A receiver that waits at its first call: the event that it waits, the event to go on, and the states that it got."""
    entered, go = threading.Event(), threading.Event()
    calls: list[str] = []

    def wait(sender: Any, message: Message, **_: Any) -> None:
        calls.append(message.state)
        if len(calls) == 1:
            entered.set()
            assert go.wait(20)

    listen(wait)
    yield entered, go, calls
    go.set()


def test_while_a_receiver_waits_it_is_not_called_again_and_the_sweep_goes_on(
    user: User, smtp: Sink, broker: redis.Redis, waiting: tuple[threading.Event, threading.Event, list[str]]
) -> None:
    entered, go, calls = waiting
    message = outbox.enqueue(Plain(user))

    with in_a_thread(lambda: pipeline.deliver(message.pk)):
        assert entered.wait(10)
        Message.objects.update(notify_at=Now())
        began = time.monotonic()
        assert sweep.settle_claims_of_dead_workers() == 0
        sweep.repeat_receivers()
        assert called_by_tasks(broker) == [[message.pk]]
        assert time.monotonic() - began < 15  # the receiver waits for 20
        go.set()

    message.refresh_from_db()
    assert (message.state, message.notify_at, calls) == (State.SENT, None, [State.SENT])


def test_a_late_acceptance_does_not_wait_for_a_receiver_and_is_signalled_too(
    user: User, broker: redis.Redis, waiting: tuple[threading.Event, threading.Event, list[str]]
) -> None:
    entered, go, calls = waiting
    message = claim_row(outbox.enqueue(Plain(user)))
    Message.objects.update(state=State.FAILED, settled_at=Now(), notify_at=Now(), worker=None, claimed_until=None)

    with in_a_thread(lambda: call_receivers([message.pk])):
        assert entered.wait(10)
        began = time.monotonic()
        settle.settle(message, Accepted("250", "taken after all"))
        assert time.monotonic() - began < 15  # the receiver waits for 20
        go.set()
    pass_time(minutes=1)
    sweep.repeat_receivers()
    called_by_tasks(broker)

    message.refresh_from_db()
    assert (message.state, message.notify_at, calls) == (State.SENT, None, [State.FAILED, State.SENT])


def test_a_receiver_that_waits_for_a_lock_for_too_long_is_called_again(
    user: User, smtp: Sink, broker: redis.Redis, listen: Callable[..., None]
) -> None:
    calls: list[str] = []

    def wait_for_the_account(sender: Any, message: Message, **_: Any) -> None:
        calls.append(message.state)
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '300ms'")
        User.objects.select_for_update().get(pk=user.pk)

    listen(wait_for_the_account)
    message = outbox.enqueue(Plain(user))
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        with in_a_thread(lambda: pipeline.deliver(message.pk)):
            pass

    message.refresh_from_db()
    assert (message.state, len(smtp.received)) == (State.SENT, 1)
    assert message.notify_at is not None
    pass_time(minutes=1)
    sweep.repeat_receivers()
    called_by_tasks(broker)
    message.refresh_from_db()
    assert message.notify_at is None
    assert calls == [State.SENT, State.SENT]
