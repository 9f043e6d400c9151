"""Publishing to a real broker that is up, down, frozen and back."""

import base64
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import transaction
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.delivery import broker as publishing
from mailer.delivery import pipeline, reserve, sweep
from mailer.delivery.housekeeping import PATIENCE
from mailer.models import Message, State, Worker
from tests.mailer.kinds import Bulletin, Plain
from tests.servers import Valkey
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def published(broker: redis.Redis, queue: str = "default") -> list[dict[str, Any]]:
    """The messages in a queue, oldest first, with their bodies read."""
    messages = [json.loads(entry) for entry in reversed(broker.lrange(queue, 0, -1))]
    return [m | {"read": json.loads(base64.b64decode(m["body"]))} for m in messages]


def tasks(broker: redis.Redis, queue: str = "default") -> list[tuple[str, Any]]:
    """The tasks in a queue, oldest first, each with its argument."""
    return [(entry["headers"]["task"].rpartition(".")[2], entry["read"][0][0]) for entry in published(broker, queue)]


def make_overdue(ago: timedelta = timedelta(seconds=10)) -> None:
    Message.objects.waiting().update(due_at=Now() - ago)


def test_nothing_is_published_before_the_commit_nor_after_a_rollback(user: User, broker: redis.Redis) -> None:
    with transaction.atomic():
        outbox.enqueue(Plain(user))
        assert published(broker) == []
    assert len(published(broker)) == 1

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outbox.enqueue(Plain(user))
        raise ZeroDivisionError
    assert len(published(broker)) == 1
    assert Message.objects.count() == 1


def test_only_the_id_passes_through_the_broker(user: User, broker: redis.Redis) -> None:
    message = outbox.enqueue(Plain(user, "a secret"), delay=timedelta(seconds=5))

    [entry] = published(broker)
    assert entry["read"][0] == [message.pk]
    assert entry["headers"]["task"] == "mailer.tasks.deliver_message"
    assert entry["headers"]["eta"] is not None
    everything = json.dumps(entry)
    assert "ann" not in everything
    assert "secret" not in everything


def test_a_message_due_beyond_the_horizon_waits_in_the_database(user: User, broker: redis.Redis) -> None:
    outbox.enqueue(Plain(user), delay=timedelta(days=14))
    outbox.enqueue_many([Plain(user)], delay=timedelta(seconds=61))
    assert published(broker) == []

    outbox.enqueue(Plain(user), delay=timedelta(seconds=60))
    assert len(published(broker)) == 1


def test_a_commit_with_many_messages_costs_two_tasks_for_each_queue_and_delay(
    user: User, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_trips = 0
    ask = publishing.broker_thread.ask

    def slow(question: Any) -> Any:
        nonlocal round_trips
        round_trips += 1
        return ask(question)

    monkeypatch.setattr(publishing.broker_thread, "ask", slow)
    with transaction.atomic():
        first = outbox.enqueue(Plain(user))
        for _ in range(50):
            outbox.enqueue(Plain(user))
        bulletin = outbox.enqueue(Bulletin(user))
        for _ in range(50):
            outbox.enqueue(Bulletin(user))

    assert tasks(broker) == [("deliver_message", first.pk), ("deliver_due", "default")]
    assert tasks(broker, "bulk") == [("deliver_message", bulletin.pk), ("deliver_due", "bulk")]
    assert round_trips == 4


def test_a_savepoint_that_is_rolled_back_takes_its_tasks_with_it(user: User, broker: redis.Redis) -> None:
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            outbox.enqueue(Plain(user))
            raise ZeroDivisionError
        kept = [outbox.enqueue(Plain(user)) for _ in range(2)]

    assert tasks(broker)[0] == ("deliver_message", kept[0].pk)
    assert len(tasks(broker)) == 2


def test_each_transaction_has_its_own_tasks(user: User, broker: redis.Redis) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(3)]

    assert tasks(broker) == [("deliver_message", message.pk) for message in messages]


@pytest.mark.parametrize("how", ["refused", "frozen"])
def test_a_broker_that_is_away_delays_requests_little_and_loses_no_mail(
    user: User,
    broker: redis.Redis,
    valkey: Valkey,
    how: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outbox.enqueue(Plain(user))  # the first publish loads code, which must not be measured

    def enqueue_five() -> list[float]:
        took = []
        for _ in range(5):
            started = time.monotonic()
            outbox.enqueue(Plain(user))
            took.append(time.monotonic() - started)
        return took

    if how == "frozen":
        with valkey.frozen():
            took = enqueue_five()
    else:
        valkey.stop()
        try:
            took = enqueue_five()
        finally:
            valkey.start()

    assert took[0] < 2  # the quarter of a second, and an INSERT on a busy machine
    assert sorted(took[1:])[2] < 0.2  # the others do not wait, even if the machine lets one wait
    assert sum("broker away" in r.getMessage() for r in caplog.records) == 1

    monkeypatch.setattr(publishing, "breaker", publishing.CircuitBreaker())
    broker.flushall()
    make_overdue()
    sweep.kick_queues()
    assert tasks(broker) == [("deliver_due", "default")]
    assert pipeline.deliver_due(["default"]) == 6


def test_the_sweep_kicks_each_queue_with_overdue_mail_once(user: User, broker: redis.Redis) -> None:
    for _ in range(3):
        outbox.enqueue(Plain(user))
        outbox.enqueue(Bulletin(user))
    broker.flushall()
    assert sweep.kick_queues() == 0  # their tasks may be under way

    make_overdue()
    assert [sweep.kick_queues(), sweep.kick_queues()] == [2, 0]
    assert (tasks(broker), tasks(broker, "bulk")) == ([("deliver_due", "default")], [("deliver_due", "bulk")])

    broker.flushall()  # it came back empty
    assert sweep.kick_queues() == 2


def test_the_cost_of_a_sweep_does_not_grow_with_the_overdue_mail(
    user: User, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    ask = publishing.broker_thread.ask

    def count(question: Any) -> Any:
        nonlocal asked
        asked += 1
        return ask(question)

    outbox.enqueue_many([Plain(user)] * 500)
    broker.flushall()
    make_overdue()
    monkeypatch.setattr(publishing.broker_thread, "ask", count)

    assert sweep.kick_queues() == 1
    assert asked == 2  # the length of the queue, and one task


def test_a_message_in_the_hands_of_a_worker_is_not_overdue(user: User, broker: redis.Redis) -> None:
    message = outbox.enqueue(Plain(user))
    broker.flushall()
    make_overdue()
    reserved = reserve.reserve(message.pk)
    assert reserved is not None

    assert sweep.kick_queues() == 0
    Worker.objects.update(seen_at=Now() - timedelta(minutes=1))  # it died
    assert sweep.kick_queues() == 1


def test_a_backlog_is_delivered_by_one_waiting_task_at_a_time(user: User, smtp: Sink, broker: redis.Redis) -> None:
    outbox.enqueue_many([Plain(user)] * 100)
    rounds = 0
    while published(broker):
        assert len(published(broker)) == 1
        broker.flushall()
        pipeline.deliver_due(["default"], seconds=0.2, on_more=lambda: publishing.kick_if_idle("default"))
        rounds += 1

    assert set(Message.objects.values_list("state", flat=True)) == {State.SENT}
    assert 1 < rounds < 100


def test_an_outage_of_the_broker_and_its_end_are_logged_once(
    user: User, broker: redis.Redis, valkey: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "BREAK", 0.0)  # each one tries again
    valkey.stop()
    try:
        for _ in range(4):
            outbox.enqueue(Plain(user))
    finally:
        valkey.start()
    for _ in range(3):
        outbox.enqueue(Plain(user))

    lines = [r.getMessage() for r in caplog.records if "'event': 'broker " in r.getMessage()]
    assert len(lines) == 2
    assert "broker away or slow" in lines[0]
    assert "broker back" in lines[1]


def test_a_silent_name_server_does_not_delay_a_request(
    user: User, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name resolution has no timeout, only the caller has one."""
    monkeypatch.setattr(publishing.broker_thread, "_thread", ThreadPoolExecutor(1))
    monkeypatch.setattr(publishing, "TIMEOUT", 0.25)

    def never_answered(producer: object) -> None:
        time.sleep(2)

    with pytest.raises(TimeoutError):
        publishing.broker_thread.ask(never_answered)  # from now on the thread is busy
    began = time.monotonic()
    for _ in range(5):
        outbox.enqueue(Plain(user))

    assert time.monotonic() - began < 1  # five would wait longer than one
    assert Message.objects.due().count() == 5


def test_a_fork_has_its_own_thread(user: User, broker: redis.Redis) -> None:
    outbox.enqueue(Plain(user))  # now the parent has one
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if publishing.kick("bulk") else 1)
        except BaseException:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tasks(broker, "bulk") == [("deliver_due", "bulk")]


def test_foreign_tasks_in_a_queue_do_not_stop_the_mail(user: User, smtp: Sink, broker: redis.Redis) -> None:
    outbox.enqueue(Plain(user))
    broker.delete("default")
    broker.lpush("default", *["{}"] * 600)
    make_overdue()

    assert sweep.kick_queues() == 0  # a worker that is idle delivers without a task
    assert reserve.has_due(["default"], [""], PATIENCE)
    assert pipeline.deliver_due(["default"]) == 1
