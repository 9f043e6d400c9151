"""What the admin's front page says about mail: health, what waits and why, and the last hour by kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import connection
from django.db.models import QuerySet

from mailer.composing import previews
from mailer.delivery.explain import Cause, tally
from mailer.delivery.pulse import Line, Pulse, health
from mailer.email import KINDS
from mailer.models import WAITING, Message, State

LOOKED_AT = 5_000
"""Messages in each state whose waiting is explained at most, so that a backlog makes the page no slower."""

# The time that a person waited: from the moment when the mail was due to its acceptance. Each part reads an index of its own.
LAST_HOUR = f"""
SELECT kind, coalesce(sent, 0), coalesce(failed, 0), coalesce(held, 0), times FROM (
    SELECT kind,
        count(*) FILTER (WHERE state = '{State.SENT}') AS sent,
        count(*) FILTER (WHERE state = '{State.FAILED}') AS failed,
        percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY settled_at - first_due_at)
            FILTER (WHERE state = '{State.SENT}') AS times
    FROM {Message._meta.db_table} WHERE settled_at > statement_timestamp() - interval '1 hour' GROUP BY kind
) AS settled FULL JOIN (
    SELECT kind, count(*) AS held FROM {Message._meta.db_table} WHERE state = '{State.HELD}' GROUP BY kind
) AS held USING (kind)
ORDER BY 2 DESC, kind
"""  # noqa: S608 - the names are our own


@dataclass(frozen=True, slots=True)
class Hour:
    """The mail of one kind that was settled in the last hour, or is held."""

    kind: str
    sent: int
    failed: int
    held: int
    half: timedelta | None
    """Half of the sent messages were accepted this soon after they were due."""
    most: timedelta | None
    """95 of 100 were."""

    @property
    def words(self) -> str:
        """What the kind is for; its name if this release does not define it."""
        return previews.summary(KINDS[self.kind]) if self.kind in KINDS else self.kind


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, for the template."""

    health: Sequence[Line]
    causes: Sequence[Cause]
    has_more: bool
    """Whether more messages wait than were looked at."""
    hours: Sequence[Hour]


def overview(pulse: Pulse) -> Overview:
    """Return what the front page shows. Raises the database's errors."""
    # One by one: each of these states has an index of its own, which is as small as the backlog.
    waiting, sending, held = (_first(state__in=states) for states in (WAITING, [State.SENDING], [State.HELD]))
    causes = tally(pulse, Message.objects.filter(pk__in=waiting.union(sending, held, all=True)))
    has_more = sum(cause.number for cause in causes) >= LOOKED_AT
    return Overview(health(pulse), causes, has_more, last_hour())


def _first(**condition: object) -> "QuerySet[Message, int]":
    return Message.objects.filter(**condition).order_by().values_list("pk", flat=True)[:LOOKED_AT]


def last_hour() -> Sequence[Hour]:
    """Return what was settled in the last hour, by kind."""
    with connection.cursor() as cursor:
        cursor.execute(LAST_HOUR)
        rows = cursor.fetchall()
    return [Hour(kind, sent, failed, held, *(times or (None, None))) for kind, sent, failed, held, times in rows]
