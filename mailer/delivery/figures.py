"""Count what waits and what happened in the last hour, for `/metrics`.

A few bounded queries, none of which reads a whole table: what is unsettled by indexes that are as small as the backlog; what
was settled in the last hour by the index on that time; the newest attempts by their primary key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, DurationField, ExpressionWrapper, F, Func, IntegerField, Max, Min, Q, Sum
from django.db.models.functions import Extract, Now

from mailer.delivery.pulse import Pulse, look
from mailer.models import WAITING, DeliveryAttempt, Message, State

HOUR = timedelta(hours=1)
LONGEST_QUESTION = "5s"
"""For each statement, so that a scrape is no burden when the database is slow."""
ATTEMPTS = 100_000
"""The largest number of attempts that are counted: all of an hour, up to 27 a second."""
DELAYS = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86_400)
"""The limits of the histogram, in seconds."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one moment."""

    pulse: Pulse
    unsettled: Sequence[Row]
    """`number` by `state`, `kind` and `queue`. What waits also has `oldest`, the seconds since the first of them was due; what
    is held also has the number of `quarantined` ones."""
    settled: Sequence[Row]
    """The last hour: `number` by `state`, `kind`, `queue` and `place`, the number of limits in DELAYS that the delay reached;
    `total`: the sum of the delays in seconds."""
    attempts: Sequence[Row]
    """The last hour: `number` by `outcome` and `transport`."""


def read() -> Figures:
    """Read the figures. Raises the database's errors."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = %s", [LONGEST_QUESTION])
        return Figures(
            pulse=look(),
            unsettled=_unsettled(),
            settled=_settled(),
            attempts=_attempts(),
        )


def _unsettled() -> Sequence[Row]:
    # One query for each index that is as small as its part of the backlog.
    counted = Message.objects.order_by().values("state", "kind", "queue").annotate(number=Count("pk"))
    # A message that a server asked to try again later waits for its time, and does not count for the age before. One that
    # cannot be prepared always does: it is only looked at again and again.
    is_due = Q(due_at__lte=Now()) | Q(troubled_since__isnull=False)
    waiting = counted.filter(state__in=WAITING).annotate(oldest=Now() - Min("first_due_at", filter=is_due))
    quarantined = Count("pk", filter=Q(reason__startswith="quarantined:"))
    return [
        *(row | {"oldest": _seconds(row["oldest"])} for row in waiting),
        *counted.filter(state=State.SENDING),
        *counted.filter(state=State.HELD).annotate(quarantined=quarantined),
    ]


def _settled() -> Sequence[Row]:
    delay: Any = ExpressionWrapper(F("settled_at") - F("first_due_at"), output_field=DurationField())
    # One expression that a group is made by: eleven counts, each with a filter, take twice the time.
    place: Any = Func(Extract(delay, "epoch"), list(DELAYS), function="width_bucket", output_field=IntegerField())
    lately = Message.objects.filter(settled_at__gt=Now() - HOUR).annotate(place=place).order_by()
    rows = lately.values("state", "kind", "queue", "place").annotate(number=Count("pk"), total=Sum(delay))
    return [row | {"total": _seconds(row["total"])} for row in rows]


def _attempts() -> Sequence[Row]:
    newest = DeliveryAttempt.objects.aggregate(newest=Max("pk"))["newest"] or 0
    lately = DeliveryAttempt.objects.filter(pk__gt=newest - ATTEMPTS, started_at__gt=Now() - HOUR).order_by()
    return list(lately.values("outcome", "transport").annotate(number=Count("pk")))


def _seconds(age: timedelta | None) -> float:
    return 0.0 if age is None else max(age.total_seconds(), 0.0)
