"""The pulse says in words what does not run, since when, and what to do."""

import itertools
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import InterfaceError
from django.db.models.functions import Now

from mailer.delivery.heartbeat import Heartbeat, heartbeat, keep_beating
from mailer.delivery.housekeeping import housekeeping
from mailer.delivery.pulse import Action, Pulse, health, look
from mailer.models import Circuit, Queue, Role, Worker
from tests.servers import wait_until

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
LONG_AGO = NOON - timedelta(minutes=1)
LATELY: dict[str, Any] = {"worker_at": NOON, "swept_at": NOON, "broker_at": NOON, "beat_at": NOON}


def worker(*queues: str, role: Role = Role.WORKER) -> Worker:
    return Worker(id=uuid.uuid4(), host="web-1", pid=42, queues=list(queues or Queue.values), role=role)


def pulse(*workers: Worker, circuits: tuple[Circuit, ...] = (), **last: datetime | None) -> Pulse:
    return Pulse(NOON, {str(each.pk): each for each in workers}, circuits, **(LATELY | last))


def circuit(**fields: Any) -> Circuit:
    said = {"paused_since": LONG_AGO, "paused_until": NOON, "reason": "mx.example.com:25: Connection refused"}
    return Circuit(transport="transport", **(said | fields))


TABLE: dict[str, tuple[Pulse, dict[str, tuple[str, Action | None]]]] = {
    "all is well": (pulse(worker()), {}),
    "no worker": (
        pulse(worker_at=LONG_AGO, broker_at=LONG_AGO),
        {
            "Workers": (
                "No worker has been running since 2026-11-28 11:59:00 UTC. Mail waits, and none is lost.",
                Action.DELIVER,
            )
        },
    ),
    "a command is no worker": (
        pulse(worker(role=Role.COMMAND), worker_at=None),
        {"Workers": ("No worker has been running. Mail waits, and none is lost.", Action.DELIVER)},
    ),
    "queues without a worker": (
        pulse(worker("bulk")),
        {"Workers": ("No running worker serves critical, default.", Action.DELIVER)},
    ),
    "no sweep": (
        pulse(worker(), swept_at=LONG_AGO),
        {"Workers": ("No worker has swept since 2026-11-28 11:59:00 UTC.", None)},
    ),
    "no broker": (
        pulse(worker(), broker_at=LONG_AGO),
        {
            "Broker": (
                "The broker has not answered the workers since 2026-11-28 11:59:00 UTC, or refuses what they do: their logs "
                "say which. Mail is some seconds late, and none is lost.",
                Action.DELIVER,
            )
        },
    ),
    "no beat": (
        pulse(worker(), beat_at=LONG_AGO),
        {
            "Beat": (
                "Celery beat has not been running since 2026-11-28 11:59:00 UTC. "
                "Mail leaves, but old rows are not deleted.",
                None,
            )
        },
    ),
    "a server away": (
        pulse(worker(), circuits=(circuit(),)),
        {
            "Transports": (
                "The transport 'transport' cannot be used since 2026-11-28 11:59:00 UTC: "
                "mx.example.com:25: Connection refused. Next probe: 2026-11-28 12:00:00 UTC.",
                Action.PROBE,
            )
        },
    ),
    "a log-in refused on one host": (
        pulse(worker(), circuits=(circuit(host="web-1", needs_person=True, reason="535 5.7.8 bad credentials"),)),
        {
            "Transports": (
                "The transport 'transport' cannot be used from web-1 since 2026-11-28 11:59:00 UTC: "
                "535 5.7.8 bad credentials. A person must correct its account or configuration. "
                "Next probe: 2026-11-28 12:00:00 UTC.",
                Action.PROBE,
            )
        },
    ),
}


@pytest.mark.parametrize("cause", TABLE)
def test_each_trouble_has_its_line(cause: str) -> None:
    given, expected = TABLE[cause]

    lines = health(given)

    assert {line.part: (line.sentence, line.action) for line in lines if not line.is_well} == expected
    assert [line.part for line in lines] == ["Workers", "Broker", "Beat", "Transports"]


@pytest.mark.django_db(transaction=True)
def test_a_living_worker_and_a_living_beat_are_seen() -> None:
    housekeeping.start(list(Queue))
    try:
        Heartbeat(Role.BEAT).beat()
        wait_until(lambda: look().swept_at is not None, "a sweep")
        seen = look()
    finally:
        housekeeping.stop()

    assert [line.sentence for line in health(seen)] == [
        f"1 worker process runs on {heartbeat.host}.",
        "The broker answers.",
        "Celery beat runs.",
        "All transports work.",
    ]


@pytest.mark.django_db
def test_beat_takes_no_mail_and_is_no_worker() -> None:
    Heartbeat(Role.BEAT).beat()

    seen = look()

    assert (seen.workers, seen.has_worker, seen.is_beat_silent) == ({}, False, False)


@pytest.mark.django_db
def test_an_answer_of_the_broker_is_remembered_until_the_next_one() -> None:
    heartbeat.broker_answers = True
    heartbeat.beat()
    Worker.objects.update(broker_at=Now() - timedelta(minutes=1))

    heartbeat.broker_answers = False
    heartbeat.beat()
    assert look().is_broker_silent

    heartbeat.broker_answers = True
    heartbeat.beat()
    assert not look().is_broker_silent


@pytest.mark.django_db(transaction=True)
def test_beat_goes_on_after_an_error_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    own, tries = Heartbeat(Role.BEAT), itertools.count()
    beat = own.beat

    def fail_once() -> None:
        if next(tries) == 0:
            raise InterfaceError("connection already closed")
        beat()

    monkeypatch.setattr("mailer.delivery.heartbeat.EVERY", 0.01)
    monkeypatch.setattr(own, "beat", fail_once)
    ends = keep_beating(own)
    try:
        wait_until(lambda: not look().is_beat_silent, "the heartbeat of beat")
    finally:
        ends.set()
        wait_until(lambda: "heartbeat" not in {thread.name for thread in threading.enumerate()}, "the thread's end")
