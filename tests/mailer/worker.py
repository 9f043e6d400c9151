"""Do what a worker does with one message."""

from datetime import timedelta

from django.db.models.functions import Now

from mailer.delivery import claim, pipeline, reserve, steps
from mailer.delivery import prepare as preparing
from mailer.delivery.heartbeat import heartbeat
from mailer.models import SILENCE, Message, Worker


def deliver(message: Message) -> Message:
    """Run the pipeline if the message is due."""
    pipeline.deliver(message.pk)
    message.refresh_from_db()
    return message


def make_due(message: Message, *, ago: timedelta = timedelta(0)) -> Message:
    Message.objects.filter(pk=message.pk).update(due_at=Now() - ago)
    return message


def deliver_now(message: Message) -> Message:
    return deliver(make_due(message))


def prepare(message: Message) -> steps.Ready:
    ready = preparing.prepare(message)
    assert isinstance(ready, steps.Ready)
    return ready


def claim_row(message: Message) -> Message:
    """Claim the message and transmit nothing. Return it as the worker that claimed it has it."""
    reserved = reserve.reserve(message.pk)
    assert reserved is not None
    assert claim.claim_row(reserved.message, prepare(reserved.message))
    message.attempts = reserved.message.attempts
    return reserved.message


def die() -> None:
    """The worker process dies. What follows is another one, on the same host."""
    Worker.objects.filter(pk=heartbeat.worker).update(seen_at=Now() - SILENCE)
    heartbeat.renew()


def another_host(name: str) -> None:
    """What follows is a worker process on another host. The one before lives on."""
    heartbeat.renew()
    heartbeat.host = name
