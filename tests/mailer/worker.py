"""Do what a worker does with one message."""

from django.utils import timezone

from mailer.delivery import claim, pipeline, steps
from mailer.models import Message


def deliver(message: Message) -> Message:
    """Run the pipeline if the message is due."""
    pipeline.deliver(message.pk)
    message.refresh_from_db()
    return message


def make_due(message: Message) -> Message:
    Message.objects.filter(pk=message.pk).update(due_at=timezone.now())
    return message


def deliver_now(message: Message) -> Message:
    return deliver(make_due(message))


def prepare(message: Message) -> steps.Ready:
    ready = pipeline.prepare(message)
    assert isinstance(ready, steps.Ready)
    return ready


def claim_row(message: Message) -> None:
    """Claim the message and transmit nothing."""
    assert claim.claim_row(message, prepare(message))
