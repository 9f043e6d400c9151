"""Finds what fell between two chairs: due messages that nobody picked up, and claims of workers that are gone."""

import math
from collections.abc import Collection
from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Greatest
from django.utils import timezone

from mailer import email, signals
from mailer.conf import options
from mailer.delivery import circuit, steps
from mailer.delivery.broker import publish, queue_lengths
from mailer.delivery.settle import settle
from mailer.models import Message, Queue
from mailer.outcomes import OutcomeUnknown

log = structlog.get_logger(__name__)

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
    routes = circuit.find_transports()
    probed = [way for way, route in routes.items() if isinstance(route, steps.Transport) and route.probing is not None]
    closed = [way for way, route in routes.items() if way in probed or isinstance(route, circuit.Paused)]
    probes = sum(_publish_probe(way) for way in probed)
    return probes if len(closed) == len(routes) else probes + _fill_queues(closed)


def _fill_queues(closed: Collection[str]) -> int:
    lengths = queue_lengths()
    if lengths is None:
        return 0
    room = _capacity()
    published = 0
    for queue, length in lengths.items():
        room = max(room - length, 0)
        handed_over = _publish_batch(queue, max(room, 1), ~Q(transport__in=closed))
        room = max(room - handed_over, 0)
        published += handed_over
    return published


def _capacity() -> int:
    rate = options().rate_per_second
    return BATCH if rate is None else min(BATCH, max(math.ceil(rate * AHEAD.total_seconds()), 1))


def _publish_probe(way: str) -> int:
    late = Q(expires_at__lte=timezone.now())  # it would settle without finding anything out
    return next((1 for queue in Queue if _publish_batch(queue, 1, Q(transport=way) & ~late)), 0)


def _publish_batch(queue: Queue, limit: int, which: Q) -> int:
    """Hands over that many overdue messages of a queue at the most, of `which`. Returns how many the broker took.

    Each one waits twice as long as before for its next hand-over: when the workers are slow, or a message kills every one
    that picks it up, more tasks for the same rows would only make it worse.
    """
    now = timezone.now()
    with transaction.atomic():
        rows = Message.objects.overdue(queue, now).filter(which).only("kind", "queue", "due_at", "handovers")
        overdue = list(rows.select_for_update(skip_locked=True)[:limit])
        for handovers in {message.handovers for message in overdue}:
            these = [message.pk for message in overdue if message.handovers == handovers]
            Message.objects.filter(pk__in=these).update(handovers=handovers + 1, publish_at=now + _pause(handovers))
    left = [message.pk for message in overdue if not publish(message)]
    if left:  # the broker is away, which is no fault of theirs: they come first when it is back
        Message.objects.waiting().filter(pk__in=left).update(handovers=Greatest(F("handovers") - 1, 0), publish_at=now)
    return len(overdue) - len(left)


def _pause(handovers: int) -> timedelta:
    longest = options().backoff_max / options().republish_after
    return options().republish_after * min(2.0 ** min(handovers, 63), max(longest, 1.0))


def settle_abandoned() -> int:
    """Settles claims whose lease ran out: the worker died in the middle, and nobody knows how far it came."""
    settled = 0
    for message in Message.objects.abandoned().order_by("claimed_until")[:BATCH]:
        try:
            settled += _settle_abandoned(message)
        except email.UnknownKind as error:
            log.warning("left to a newer worker", **message.log_fields(), reason=str(error))
        except signals.ConnectionLost:
            signals.log_skipped(message)
            settled += _settle_abandoned(message, observed=False)
    return settled


@transaction.atomic
def _settle_abandoned(message: Message, *, observed: bool = True) -> int:
    # Locked, or passed over: its worker may be alive after all, and settle it at this moment for as long as it likes.
    if not Message.objects.abandoned().filter(pk=message.pk).select_for_update(skip_locked=True).values_list("pk"):
        return 0
    said = OutcomeUnknown("the worker was not heard of again after it had begun to send")
    settle(message, said, observed=observed)
    return 1
