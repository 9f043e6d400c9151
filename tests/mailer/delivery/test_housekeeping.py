"""A worker process works without beat and without a broker: it sweeps and delivers by itself.

Rows 12, 26 and 43 of issue 14.
"""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import time_machine
from django.db import OperationalError, connection
from django.db.models.functions import Now
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import broker as publishing
from mailer.delivery import heartbeat as heartbeats
from mailer.delivery import housekeeping as module
from mailer.delivery import pipeline, sweep
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.housekeeping import Housekeeping
from mailer.models import Message, Queue, State, Worker
from mailer.signals import message_settled
from mailer.transports import connections
from tests.mailer.kinds import Bulletin, Fleeting, Plain
from tests.mailer.worker import claim_row, die
from tests.servers import Valkey, wait_until
from tests.smtp_sink import Sink

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]

Start = Callable[..., Housekeeping]


@pytest.fixture
def start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the housekeeping of this process, at a pace for tests."""
    settings.POSTCOMMIT = {"SWEEP_EVERY": "0.2"}
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=0.5))
    monkeypatch.setattr(heartbeats, "SILENCE", timedelta(seconds=0.4))  # for `has_lasted`
    started: list[Housekeeping] = []

    def begin(*queues: str) -> Housekeeping:
        started.append(Housekeeping())
        started[-1].start(queues or list(Queue))
        return started[-1]

    yield begin
    for each in started:
        each.stop()
    connections.close_all()


def states() -> list[str]:
    return list(Message.objects.order_by("pk").values_list("state", flat=True))


def no_tasks(broker: redis.Redis) -> None:
    """Lose all tasks, as a broker does that comes back empty."""
    broker.flushall()


def test_a_worker_beats_and_its_heartbeat_ends_with_it(start: Start) -> None:
    running = start("bulk")
    wait_until(lambda: Worker.objects.alive().exists(), "a heartbeat")
    [worker] = Worker.objects.all()
    assert (worker.queues, worker.host, worker.release) == (["bulk"], heartbeat.host, heartbeats.code_digest())

    running.stop()
    assert not Worker.objects.exists()
    assert not heartbeat.is_good()


def test_mail_whose_tasks_are_lost_is_delivered_by_an_idle_worker(
    user: User, smtp: Sink, broker: redis.Redis, start: Start
) -> None:
    for _ in range(3):
        outbox.enqueue(Plain(user))
    no_tasks(broker)
    start()

    wait_until(lambda: states() == [State.SENT] * 3, "the mail")
    assert len(smtp.received) == 3


def test_a_mail_server_that_does_not_answer_a_goodbye_delays_no_heartbeat(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty threads have twenty connections, and each QUIT may take a second."""
    closing, answered = threading.Event(), threading.Event()

    def close_idle() -> None:
        closing.set()
        answered.wait(10)

    monkeypatch.setattr(connections, "close_idle", close_idle)
    try:
        start()
        assert closing.wait(5)
        began = Worker.objects.get().seen_at
        wait_until(lambda: Worker.objects.filter(seen_at__gt=began).exists(), "the next heartbeat")
    finally:
        answered.set()


@pytest.mark.parametrize("lost", ["while it is prepared", "with the answer to the reservation"])
def test_mail_that_was_dropped_when_the_database_was_away_does_not_wait_for_other_mail(
    user: User, smtp: Sink, broker: redis.Redis, start: Start, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Its worker lives, so that no other one takes it, and the task is gone."""

    def fail(*_: Any) -> None:
        raise OperationalError("the connection is lost")

    start()
    wait_until(heartbeat.is_good, "a heartbeat")
    message = outbox.enqueue(Plain(user))
    with monkeypatch.context() as patch:
        if lost == "while it is prepared":
            patch.setattr(pipeline, "prepare", fail)
        else:
            reserved = Message.objects.raw
            patch.setattr(Message.objects, "raw", lambda *args, **options: fail(list(reserved(*args, **options))))
        with pytest.raises(OperationalError):
            pipeline.deliver(message.pk)
    no_tasks(broker)

    wait_until(lambda: states() == [State.SENT], "the mail")


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_broker_that_does_not_answer_delays_mail_by_seconds(
    user: User, smtp: Sink, valkey: Valkey, start: Start, how: str
) -> None:
    """Row 43: database, workers and SMTP are well."""

    def commit_and_wait() -> None:
        rows = [outbox.enqueue(Plain(user)) for _ in range(3)]
        began = time.monotonic()
        wait_until(lambda: states() == [State.SENT] * len(rows), "the mail")
        assert time.monotonic() - began < 12

    start()
    if how == "frozen":
        with valkey.frozen():
            commit_and_wait()
    else:
        valkey.stop()
        try:
            commit_and_wait()
        finally:
            valkey.start()


def test_everything_of_the_sweep_is_done_while_the_broker_does_not_answer(
    user: User, smtp: Sink, valkey: Valkey, start: Start
) -> None:
    """Row 26: the sweep was a task in `critical`. Here no worker serves `critical`, and there is no broker."""
    abandoned, _, _, unserved = (outbox.enqueue(kind(user)) for kind in (Plain, Fleeting, Bulletin, Plain))
    claim_row(abandoned)
    die()
    Message.objects.filter(pk=unserved.pk).update(queue=Queue.CRITICAL)
    with valkey.frozen():
        start("bulk")
        wait_until(
            lambda: states() == [State.RETRYING, State.EXPIRED, State.SENT, State.QUEUED],
            "the sweep and the bulk mail",
        )
    assert len(smtp.received) == 1


@pytest.mark.parametrize("by", [timedelta(days=1), timedelta(days=-1)], ids=["forward", "back"])
def test_a_clock_that_is_corrected_stops_no_sweep(user: User, smtp: Sink, start: Start, by: timedelta) -> None:
    """Row 12: after beat's clock was corrected backwards, there was no sweep until the old time came."""
    running = start("bulk")
    wait_until(lambda: Worker.objects.filter(swept_at__isnull=False).exists(), "the first sweep")

    with time_machine.travel(datetime.now().astimezone() + by):
        expired = outbox.enqueue(Fleeting(user))
        Message.objects.filter(pk=expired.pk).update(expires_at=Now())
        outbox.enqueue(Bulletin(user))
        wait_until(lambda: states() == [State.EXPIRED, State.SENT], "the sweep")
    running.stop()


def test_one_worker_sweeps_in_each_interval(settings: Settings) -> None:
    turns = []
    for _ in range(5):
        heartbeat.renew()
        heartbeat.beat()
        turns.append(sweep.begin())
    assert turns == [True, False, False, False, False]

    Worker.objects.update(swept_at=Now() - timedelta(seconds=5))
    assert [sweep.begin(), sweep.begin()] == [True, False]


def test_a_sweep_in_the_future_delays_no_other() -> None:
    """The clock of the database was corrected, or a replica took over whose clock is behind."""
    heartbeat.beat()
    Worker.objects.update(swept_at=Now() + timedelta(hours=1))

    assert sweep.begin()


def test_a_slow_statement_does_not_make_the_worker_look_dead(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_slowly() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(30)")
        return True

    monkeypatch.setattr(sweep, "begin", look_slowly)
    monkeypatch.setattr(module, "LONGEST_LOOK", "100ms")
    monkeypatch.setattr(module, "EVERY", 0.2)
    start()
    wait_until(lambda: Worker.objects.exists(), "a heartbeat")
    first = Worker.objects.get().seen_at

    wait_until(lambda: Worker.objects.get().seen_at > first + timedelta(seconds=1), "later heartbeats")


def test_it_can_be_stopped_while_it_begins_work(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    begins = threading.Event()

    class SlowToStart(threading.Thread):
        def start(self) -> None:
            if self.name == "closing":
                begins.set()
                time.sleep(0.3)
            super().start()

    slow = SimpleNamespace(Thread=SlowToStart, Event=threading.Event, Lock=threading.Lock)
    monkeypatch.setattr(module, "threading", slow)
    running = start()
    assert begins.wait(10)

    running.stop()

    assert not Worker.objects.exists()


def test_a_worker_that_dies_during_its_sweep_leaves_it_to_the_others() -> None:
    heartbeat.beat()
    assert sweep.begin()
    die()
    heartbeat.beat()
    Worker.objects.update(swept_at=Now() - timedelta(seconds=5))

    assert sweep.begin()


def test_a_database_that_is_away_for_a_while_ends_no_housekeeping(
    user: User, smtp: Sink, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.2)
    start()
    wait_until(lambda: heartbeat.is_good(), "a heartbeat")
    with connection.cursor() as cursor:
        for _ in range(3):
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            time.sleep(0.3)

    outbox.enqueue(Plain(user))
    wait_until(lambda: states() == [State.SENT], "the mail")
    assert "housekeeping failed" not in caplog.text


def test_an_error_of_one_sweep_ends_no_housekeeping(
    user: User, smtp: Sink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []

    def fail() -> None:
        if len(failed) < 2:
            failed.append(1)
            raise ZeroDivisionError
        sweep_once()

    sweep_once = sweep.sweep
    monkeypatch.setattr(sweep, "sweep", fail)
    monkeypatch.setattr(module, "EVERY", 0.2)
    outbox.enqueue(Fleeting(user))
    start()

    wait_until(lambda: states() == [State.EXPIRED], "the third sweep")


def test_a_worker_whose_tasks_finish_mail_leaves_the_rest_to_them(user: User, smtp: Sink, start: Start) -> None:
    outbox.enqueue(Plain(user))
    start()
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        with heartbeat.holding(0), heartbeat.turn_of(0):
            time.sleep(0.01)
        assert states() == [State.QUEUED]
    wait_until(lambda: states() == [State.SENT], "the mail")


def test_a_worker_whose_tasks_hang_delivers_the_rest(user: User, smtp: Sink, start: Start) -> None:
    outbox.enqueue(Plain(user))
    with heartbeat.holding(0), heartbeat.turn_of(0):
        start()
        wait_until(lambda: states() == [State.SENT], "the mail")


def test_a_kick_and_an_idle_worker_send_nothing_twice(
    user: User, smtp: Sink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", timedelta(0))
    monkeypatch.setattr(module, "EVERY", 0.05)
    for _ in range(40):
        outbox.enqueue(Plain(user))
    start()
    while pipeline.deliver_due(list(Queue)):
        pass

    wait_until(lambda: set(states()) == {State.SENT}, "the mail")
    assert len(smtp.received) == 40
    assert publishing.breaker.is_open() is False


def test_a_receiver_that_hangs_in_a_sweep_does_not_make_the_worker_look_dead(
    user: User, smtp: Sink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 17 of issue 14, in the background thread: the claims of a living worker would be given away."""
    entered, go = threading.Event(), threading.Event()

    def hang(sender: Any, message: Message, **_: Any) -> None:
        entered.set()
        go.wait(20)

    monkeypatch.setattr(module, "EVERY", 0.2)
    message_settled.connect(hang, sender=Fleeting, weak=False)
    try:
        outbox.enqueue(Fleeting(user))
        start()
        assert entered.wait(10)
        outbox.enqueue(Bulletin(user))
        hung = time.monotonic()
        wait_until(lambda: heartbeat._last > hung + 0.5, "a heartbeat while the receiver hangs")
        wait_until(lambda: State.SENT in states(), "the mail")
    finally:
        go.set()
        message_settled.disconnect(hang, sender=Fleeting)


def test_a_health_file_that_cannot_be_written_stops_no_mail(
    user: User, smtp: Sink, start: Start, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings.POSTCOMMIT = {"SWEEP_EVERY": "0.2", "HEALTH_FILE": str(tmp_path / "missing" / "healthy")}
    outbox.enqueue(Plain(user))
    start()

    wait_until(lambda: states() == [State.SENT], "the mail")
    assert "POSTCOMMIT_HEALTH_FILE cannot be written" in caplog.text
