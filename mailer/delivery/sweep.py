"""Re-queue overdue messages and settle the claims of dead workers."""

import math
from datetime import timedelta
from functools import partial

import structlog
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Greatest
from django.utils import timezone

from mailer import email, routes, signals
from mailer.conf import options
from mailer.delivery import circuit
from mailer.delivery.broker import publish, queue_lengths
from mailer.delivery.settle import settle
from mailer.models import Message, Queue
from mailer.outcomes import OutcomeUnknown

log = structlog.get_logger(__name__)

BATCH = 500
"""The largest number of messages in one sweep, so that it ends before the next one begins."""
AHEAD = timedelta(seconds=10)
"""Under a rate limit, the sweep publishes tasks for this long ahead: more tasks would only be postponed."""


def sweep() -> None:
    """Settle abandoned messages and publish overdue ones. Several sweeps may run at once."""
    settled = settle_abandoned()
    published = publish_overdue()
    if settled or published:
        log.info("swept", published=published, abandoned=settled)


def publish_overdue() -> int:
    """Publish messages that are overdue, the most urgent first. Return the number of published messages.

    It only fills the queues up to BATCH tasks, so a large backlog stays in the table. One message of each queue is published
    even if the queue is full.
    """
    paused = circuit.pauses()
    found = {route: circuit.find_transport(route, paused) for route in routes.names() if routes.transports(route)}
    probed = [route for route, transport in found.items() if transport and transport.probing]
    closed = [route for route, transport in found.items() if transport is None or transport.probing]
    expired = Q(expires_at__lte=timezone.now())  # settled without a transport, so it cannot probe one
    probes = sum(_publish_probe(Q(transport=route) & ~expired) for route in probed)
    return probes + _fill_queues(~Q(transport__in=closed) | expired)


def _fill_queues(which: Q) -> int:
    rate = options().rate_per_second
    room = BATCH if rate is None else min(BATCH, max(math.ceil(rate * AHEAD.total_seconds()), 1))
    total = 0
    for queue, length in (queue_lengths() or {}).items():
        room = max(room - length, 0)
        published = _publish_batch(queue, max(room, 1), which)
        room = max(room - published, 0)
        total += published
    return total


def _publish_probe(which: Q) -> int:
    return next((1 for queue in Queue if _publish_batch(queue, 1, which)), 0)


def _publish_batch(queue: Queue, limit: int, which: Q) -> int:
    """Publish up to `limit` overdue messages of the queue. Return the number of published messages.

    The pause until a message is published again doubles each time: more tasks for one row help neither slow workers nor a
    message that kills every worker.
    """
    now = timezone.now()
    with transaction.atomic():
        rows = Message.objects.overdue(queue, now).filter(which).only("kind", "queue", "due_at", "handovers")
        overdue = list(rows.select_for_update(skip_locked=True)[:limit])
        for times in {message.handovers for message in overdue}:
            these = [message.pk for message in overdue if message.handovers == times]
            Message.objects.filter(pk__in=these).update(handovers=times + 1, publish_at=now + _pause(times))
    unpublished = [message.pk for message in overdue if not publish(message)]
    if unpublished:  # the broker is away, not a fault of the messages: they come first when it is back
        rows = Message.objects.waiting().filter(pk__in=unpublished)
        rows.update(handovers=Greatest(F("handovers") - 1, 0), publish_at=now)
    return len(overdue) - len(unpublished)


def _pause(published_before: int) -> timedelta:
    longest = options().backoff_max / options().republish_after
    return options().republish_after * min(2.0 ** min(published_before, 63), max(longest, 1.0))


def settle_abandoned() -> int:
    """Settle claims whose lease has run out: the worker died while sending, so the outcome is unknown."""
    settled = 0
    for message in Message.objects.abandoned().order_by("claimed_until")[:BATCH]:
        try:
            settled += signals.with_receivers(message, partial(_settle_abandoned, message))
        except email.UnknownKind as error:
            log.warning("not settled; waits for a newer release's worker", **message.log_fields(), reason=str(error))
    return settled


def _settle_abandoned(message: Message, notify: bool) -> int:
    # Skip a locked row: its worker may be alive after all and settle it at this moment.
    if not Message.objects.abandoned().filter(pk=message.pk).select_for_update(skip_locked=True).values_list("pk"):
        return 0
    settle(message, OutcomeUnknown("the worker stopped responding while it sent the message"), notify=notify)
    return 1
