"""Finds what fell between two chairs: due messages that nobody picked up, and claims of workers that are gone."""

import math
from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from mailer import pacing
from mailer.conf import options
from mailer.email import UnknownKind
from mailer.models import SETTLED, Message, Queue
from mailer.outcomes import OutcomeUnknown
from mailer.publishing import publish, queue_lengths
from mailer.settlement import settle

log = structlog.get_logger("mailer.sweep")

BATCH = 500
"""How many messages one sweep handles, so that it ends before the next one begins."""
AHEAD = timedelta(seconds=10)
"""Where a rate is configured, tasks for this long a time are enough: more would only find that it is not their turn."""


def sweep() -> None:
    """Does everything that time brings. Any number of sweeps may run at once."""
    settled = settle_abandoned()
    published = publish_overdue()
    if settled or published:
        log.info("swept", published=published, abandoned=settled)


def publish_overdue() -> int:
    """Hands over messages whose due time has come (again), the most urgent first. Returns how many the broker took.

    The queues are filled up, and never beyond that: however long the backlog and however slow the workers, the broker
    holds tasks for a small part of it. One message of each queue goes all the same, should the queue be somebody else's.
    """
    route = pacing.find_route()
    if isinstance(route, pacing.Paused):
        return 0
    if route.probing is not None:
        return _hand_over_a_probe()
    lengths = queue_lengths()
    if lengths is None:
        return 0
    room = _capacity()
    published = 0
    for queue, length in lengths.items():
        room = max(room - length, 0)
        handed_over = _hand_over(queue, max(room, 1))
        room = max(room - handed_over, 0)
        published += handed_over
    return published


def _capacity() -> int:
    rate = options().rate_per_second
    return BATCH if rate is None else min(BATCH, max(math.ceil(rate * AHEAD.total_seconds()), 1))


def _hand_over_a_probe() -> int:
    return next((1 for queue in Queue if _hand_over(queue, 1)), 0)


def _hand_over(queue: Queue, limit: int) -> int:
    """Hands over that many overdue messages of a queue at the most. Returns how many the broker took.

    Each one waits twice as long as before for its next hand-over: when the workers are slow, or a message kills every one
    that picks it up, more tasks for the same rows would only make it worse.
    """
    now = timezone.now()
    with transaction.atomic():
        rows = Message.objects.overdue(queue, now).only("kind", "queue", "due_at", "handovers")
        overdue = list(rows.select_for_update(skip_locked=True)[:limit])
        for handovers in {message.handovers for message in overdue}:
            these = [message.pk for message in overdue if message.handovers == handovers]
            Message.objects.filter(pk__in=these).update(handovers=handovers + 1, publish_at=now + _pause(handovers))
    left = [message.pk for message in overdue if not publish(message)]
    if left:  # the broker is away, which is no fault of theirs: they come first when it is back
        Message.objects.waiting().filter(pk__in=left).update(handovers=F("handovers") - 1, publish_at=now)
    return len(overdue) - len(left)


def _pause(handovers: int) -> timedelta:
    longest = options().backoff_max / options().republish_after
    return options().republish_after * min(2.0 ** min(handovers, 63), max(longest, 1.0))


def settle_abandoned() -> int:
    """Settles claims whose lease ran out: the worker died in the middle, and nobody knows how far it came."""
    settled = 0
    for message in Message.objects.abandoned()[:BATCH]:
        try:
            settle(message, OutcomeUnknown("the worker was not heard of again after it had begun to send"))
        except UnknownKind as error:
            log.warning("left to a newer worker", **message.log_fields(), reason=str(error))
        else:
            settled += 1
    return settled


def purge() -> int:
    """Deletes messages that were settled longer ago than the retention says, with their attempts. Returns how many."""
    limit = timezone.now() - timedelta(days=options().retention_days)
    old = Message.objects.filter(state__in=SETTLED, settled_at__lt=limit).order_by("pk").values_list("pk", flat=True)
    purged = 0
    while batch := _purge_batch(old):
        purged += batch
    if purged:
        log.info("purged", messages=purged, retention_days=options().retention_days)
    return purged


@transaction.atomic
def _purge_batch(old: "QuerySet[Message, int]") -> int:
    # Locked, so that a message that a person queues again at this moment is either gone before or stays.
    batch = list(old.select_for_update(skip_locked=True)[:BATCH])
    Message.objects.filter(pk__in=batch).delete()
    return len(batch)
