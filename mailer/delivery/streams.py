"""Set mail of paused streams aside, so that other mail overtakes it, and make it due again when its stream goes on."""

from collections.abc import Sequence

from django.db.models.functions import Now

from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.reserve import Reserved
from mailer.email import KINDS
from mailer.models import OPEN_END, Message, StreamReputation
from mailer.recipients import subscriptions

BATCH = 10_000
"""Messages that one statement makes due."""


def set_aside(batch: Sequence[Reserved]) -> set[int]:
    """Put the messages of one reservation back whose stream is paused. Return their primary keys.

    They are due when a person resumes the stream, so that no worker takes them again and again.
    """
    if not batch or not (paused := batch[0].paused_streams):
        return set()
    kinds = subscriptions.kinds_of(*paused)
    aside = {reserved.message.pk for reserved in batch if reserved.message.kind in kinds}
    if aside:
        mine = Message.objects.waiting().filter(pk__in=aside, worker=heartbeat.worker)
        mine.update(worker=None, reservations=0, due_at=OPEN_END)
    return aside


def make_due() -> int:
    """Make mail due that was set aside, and whose stream is not paused any more, up to BATCH. Return the number of messages.

    The sweep calls it, so a message that was set aside at the very moment of the resumption waits some seconds.
    """
    paused = StreamReputation.objects.exclude(paused_since=None).values_list("stream", flat=True)
    waiting = Message.objects.set_aside()
    if not waiting.exists():
        return 0
    free = KINDS.keys() - subscriptions.kinds_of(*paused)  # a kind that only another release knows is left to it
    batch = list(waiting.filter(kind__in=free).order_by().values_list("pk", flat=True)[:BATCH])
    return waiting.filter(pk__in=batch).update(due_at=Now())
