"""Whether pages say that mail is slow."""

from dataclasses import dataclass
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.delivery import slowness
from mailer.models import Circuit, Message, Queue, Worker
from tests.mailer.kinds import Plain


def run_a_worker(queues: tuple[str, ...] = (Queue.CRITICAL,)) -> None:
    Worker.objects.create(host="web-1", pid=42, queues=list(queues))


def wait(user: User, queue: str, seconds: float) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.filter(pk=message.pk).update(queue=queue, due_at=Now() - timedelta(seconds=seconds))


def pause() -> None:
    Circuit.objects.create(transport="transport", host="", paused_until=Now() + timedelta(seconds=30))


@dataclass(frozen=True)
class Scene:
    queues: tuple[str, ...] = (Queue.CRITICAL,)
    """What the worker serves; nothing: no worker runs."""
    waiting: tuple[str, float] | None = None
    """The queue of a message, and for how many seconds it has been due."""
    is_paused: bool = False


SCENES: dict[str, tuple[Scene, bool]] = {
    "a worker runs": (Scene(), False),
    "no worker runs": (Scene(queues=()), True),
    "no worker serves the queue": (Scene(queues=(Queue.BULK,)), True),
    "due for half a minute": (Scene(waiting=(Queue.CRITICAL, 31)), True),
    "due since a moment": (Scene(waiting=(Queue.CRITICAL, 5)), False),
    "less urgent mail waits": (Scene(waiting=(Queue.BULK, 600)), False),
    "the transport is paused": (Scene(is_paused=True), True),
}


@pytest.mark.parametrize("name", SCENES)
def test_mail_is_slow_while_urgent_mail_cannot_go_at_once(user: User, name: str) -> None:
    scene, is_slow = SCENES[name]
    if scene.queues:
        run_a_worker(scene.queues)
    if scene.waiting:
        wait(user, *scene.waiting)
    if scene.is_paused:
        pause()

    assert outbox.is_slow() is is_slow


def test_what_was_found_is_remembered_for_a_few_seconds(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outbox.is_slow()
    run_a_worker()
    assert outbox.is_slow()

    monkeypatch.setattr(slowness, "REMEMBERED", 0)
    assert not outbox.is_slow()


@pytest.mark.django_db(transaction=True)
def test_mail_is_not_called_slow_without_an_answer_of_the_database() -> None:
    with connection.execute_wrapper(refuse):
        assert not outbox.is_slow()


def refuse(*_: object) -> None:
    raise DatabaseError("the database is away")
