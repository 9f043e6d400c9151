"""The pace of a transport, shared by all workers: its rate, set by the operator or learnt from the server, and its quota."""

from datetime import timedelta
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models import Count, Max, Min
from django.db.models.functions import Now

from mailer.delivery import limits, pacing
from mailer.delivery.quota import HOUR, TAKEN, WITH_ONE_MORE
from mailer.models import TOOK, DeliveryAttempt, Queue, TransportState

log = structlog.get_logger(__name__)

LONGEST_WAIT = timedelta(seconds=5)
"""How long a worker waits with a message for the rate limit."""
LONGEST_WAIT_OF_CRITICAL = timedelta(seconds=10)
"""Critical messages may book slots further ahead, so that a backlog of other messages does not block them."""

# GCRA (ITU-T I.371): `slot_at` is a virtual clock. Each message moves it by one interval, unless it is already too far ahead.
# A learnt rate grows with each message; see `pacing`.
FASTER = pacing.FASTER.format(
    rate="transport.rate", idle="extract(epoch FROM statement_timestamp() - transport.slot_at)"
)
BOOK_SLOT = f"""
INSERT INTO {TransportState._meta.db_table} AS transport (alias, slot_at, taken)
VALUES (
    %(alias)s, statement_timestamp() + %(interval)s,
    CASE WHEN %(quota)s::bigint IS NULL THEN '{{}}' ELSE jsonb_build_object({HOUR}, 1) END
)
ON CONFLICT (alias) DO UPDATE SET
    slot_at = greatest(transport.slot_at, statement_timestamp())
        + greatest(%(interval)s, interval '1 second' / transport.rate),
    rate = {FASTER},
    taken = CASE WHEN %(quota)s::bigint IS NULL THEN transport.taken ELSE {WITH_ONE_MORE} END
    WHERE (transport.slot_at IS NULL OR transport.slot_at <= statement_timestamp() + %(longest_wait)s)
      AND (%(quota)s::bigint IS NULL OR {TAKEN} < %(quota)s::bigint)
RETURNING extract(epoch FROM slot_at - greatest(%(interval)s, interval '1 second' / rate) - clock_timestamp())
"""  # noqa: S608 - the name is our own model's


def longest_wait(queue: str) -> timedelta:
    """Return how long a worker waits with a message of this queue for its slot."""
    return LONGEST_WAIT_OF_CRITICAL if queue == Queue.CRITICAL else LONGEST_WAIT


def book_slot(alias: str, longest_wait: timedelta) -> float | None:
    """Book the next slot of the transport, and count it in its quota. Return the seconds until then.

    None, and nothing is booked, if the slot is further away than `longest_wait`, or if the quota is used up.
    """
    limit = limits.of(alias)
    if not limit.is_counted and not TransportState.objects.filter(alias=alias, rate__isnull=False).exists():
        return 0.0  # another transport is limited
    values: dict[str, Any] = {
        "alias": alias,
        "interval": timedelta(seconds=1 / limit.rate) if limit.rate else timedelta(0),
        "quota": limit.quota,
        "longest_wait": longest_wait,
    }
    with connection.cursor() as cursor:
        cursor.execute(BOOK_SLOT, values)
        booked = cursor.fetchone()
    return max(float(booked[0]), 0.0) if booked else None


def slow_down(alias: str) -> None:
    """Slow a transport down after its server refused a message because there were too many."""
    taken = DeliveryAttempt.objects.newest().filter(
        transport=alias, outcome__in=TOOK, finished_at__gt=Now() - pacing.WINDOW
    )
    now = Now()
    seen = taken.aggregate(number=Count("pk"), first=now - Min("finished_at"), last=now - Max("finished_at"))
    with transaction.atomic():
        TransportState.objects.get_or_create(alias=alias)
        state = TransportState.objects.select_for_update().get(alias=alias)
        slower = pacing.slower(state.rate, seen["number"], seen["first"] or pacing.WINDOW)
        pause = pacing.pause(seen["last"] or pacing.WINDOW)
        TransportState.objects.filter(alias=alias).update(rate=slower, slot_at=Now() + pause)
    log.warning(
        "transport slows down", transport=alias, messages_a_second=round(slower, 3), pause=pause.total_seconds()
    )
