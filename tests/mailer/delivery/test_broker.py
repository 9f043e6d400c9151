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
from django.db.models import F
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.delivery import broker as publishing
from mailer.delivery import claim, pipeline, steps, sweep
from mailer.models import Message, Queue
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.servers import Valkey
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def published(broker: redis.Redis, queue: str = "default") -> list[dict[str, Any]]:
    """The messages in a queue, oldest first, with their bodies read."""
    entries: Any = broker.lrange(f"{queue}\x06\x16{publishing.PRIORITY}", 0, -1)  # kombu's name for the two together
    messages = [json.loads(entry) for entry in reversed(entries)]
    return [m | {"read": json.loads(base64.b64decode(m["body"]))} for m in messages]


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
    message = outbox.enqueue(Plain(user), delay=timedelta(days=14))

    assert published(broker) == []
    assert message.publish_at == message.due_at


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

    assert took[0] < 0.5  # the quarter of a second, and an INSERT on a busy machine
    assert max(took[1:]) < 0.1
    assert sum("broker away" in r.getMessage() for r in caplog.records) == 1
    assert Message.objects.filter(publish_at__lte=timezone.now()).count() == 5

    monkeypatch.setattr(publishing, "breaker", publishing.CircuitBreaker())
    before = len(published(broker))
    sweep.sweep()
    assert len(published(broker)) == before + 5


def test_the_sweep_publishes_an_overdue_message_once_per_pause(user: User, broker: redis.Redis) -> None:
    message = outbox.enqueue(Plain(user))
    broker.flushall()
    assert sweep.publish_overdue() == 0  # published at the commit, and not overdue yet

    Message.objects.update(publish_at=timezone.now())
    assert [sweep.publish_overdue(), sweep.publish_overdue()] == [1, 0]

    assert [entry["read"][0] for entry in published(broker)] == [[message.pk]]


def test_the_pause_between_two_tasks_doubles_until_a_worker_claims_the_message(user: User, broker: redis.Redis) -> None:
    message = outbox.enqueue(Plain(user))
    pauses = []
    for _ in range(9):
        Message.objects.update(publish_at=timezone.now())
        assert sweep.publish_overdue() == 1
        message.refresh_from_db()
        pauses.append(round((message.publish_at - timezone.now()).total_seconds()))
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]

    prepared = pipeline.prepare(message)
    assert isinstance(prepared, steps.Ready)
    assert claim.claim_row(message, prepared)
    message.refresh_from_db()
    assert message.handovers == 0


def test_a_failed_publish_does_not_lengthen_the_pause(user: User, broker: redis.Redis, valkey: Valkey) -> None:
    outbox.enqueue(Plain(user))
    Message.objects.update(publish_at=timezone.now())
    valkey.stop()
    try:
        assert sweep.publish_overdue() == 0
    finally:
        valkey.start()

    message = Message.objects.get()
    assert (message.handovers, message.publish_at <= timezone.now()) == (0, True)


def test_the_sweep_publishes_the_most_urgent_first(
    user: User, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in ("bulk", "default", "critical"):
        outbox.enqueue(Plain(user))
        Message.objects.filter(publish_at__gt=timezone.now()).update(queue=queue, publish_at=timezone.now())

    published: list[str] = []

    def publish(message: Message) -> bool:
        published.append(message.queue)
        return True

    monkeypatch.setattr(sweep, "publish", publish)
    assert sweep.publish_overdue() == 3
    assert published == ["critical", "default", "bulk"]


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

    def never_answered(producer: object) -> None:
        time.sleep(2)

    with pytest.raises(TimeoutError):
        publishing.broker_thread.ask(never_answered)  # from now on the thread is busy
    began = time.monotonic()
    for _ in range(5):
        outbox.enqueue(Plain(user))

    assert time.monotonic() - began < 0.5
    assert Message.objects.filter(publish_at__lte=timezone.now()).count() == 5


def test_a_fork_has_its_own_thread(user: User, broker: redis.Redis) -> None:
    outbox.enqueue(Plain(user))  # now the parent has one
    child = os.fork()
    if child == 0:
        try:
            sizes = publishing.queue_lengths()
            os._exit(0 if sizes is not None and sizes[Queue.DEFAULT] == 1 else 1)
        except BaseException:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_backlog_fills_the_queues_and_no_more_with_slow_workers(
    user: User, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "BATCH", 20)
    rows = [
        Message(kind="tests.Plain", arguments={"account": user.pk}, recipient=user.email, message_id_header=f"<{n}@x>")
        for n in range(200)
    ]
    Message.objects.bulk_create(rows)
    tasks = 0
    for _ in range(60):  # sweeps, each after the workers took five tasks and every pause has passed
        tasks += sweep.publish_overdue()
        assert sum(publishing.queue_lengths().values()) <= 20 + 1  # type: ignore[union-attr]
        done = {entry["read"][0][0] for entry in published(broker)[:5]}
        broker.ltrim(f"default\x06\x16{publishing.PRIORITY}", 0, -6)
        Message.objects.filter(pk__in=done).update(state="sent")
        Message.objects.update(publish_at=F("publish_at") - timedelta(seconds=10))

    delivered = Message.objects.filter(state="sent").count()
    assert delivered >= 150
    assert tasks <= 2 * delivered


def test_foreign_tasks_in_a_queue_do_not_stop_the_mail(user: User, broker: redis.Redis) -> None:
    outbox.enqueue(Plain(user))
    outbox.enqueue(Plain(user))
    broker.delete(f"default\x06\x16{publishing.PRIORITY}")
    broker.lpush("default", *["{}"] * 600)
    Message.objects.update(publish_at=timezone.now())

    assert [sweep.publish_overdue(), sweep.publish_overdue(), sweep.publish_overdue()] == [1, 1, 0]


@pytest.mark.django_db(transaction=True)
def test_a_sweep_skips_rows_that_another_sweep_has_locked(user: User) -> None:
    outbox.enqueue(Plain(user))
    Message.objects.update(publish_at=timezone.now())

    with transaction.atomic():
        list(Message.objects.select_for_update())
        numbers, failures = at_once([sweep.publish_overdue])

    assert (numbers, failures) == ([0], [])
    assert sweep.publish_overdue() == 1


@pytest.mark.usefixtures("broker")
def test_a_worker_may_be_quicker_than_the_brokers_answer(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    Message.objects.update(publish_at=timezone.now() - timedelta(seconds=1))
    smtp.script.always["RCPT"] = "451 4.3.0 later"

    def publish(message: Message) -> bool:
        if message.pk == first.pk:
            pipeline.deliver(message.pk)
        return False

    monkeypatch.setattr(sweep, "publish", publish)
    sweep.publish_overdue()

    second.refresh_from_db()
    assert second.handovers == 0
