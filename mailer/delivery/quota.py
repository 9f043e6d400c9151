"""The daily quota of a transport: messages in any 24 hours, counted by the hour, for all workers.

Any 24 hours and not a calendar day, because large providers count so, and because a transport that keeps to it exceeds no
calendar day in any time zone. An hour counts until 25 hours after its beginning, so that its last message counts for 24 hours.

`rate.book_slot` counts a message before it is sent. One that is not sent after all is given back. What a worker that dies does
not give back counts until its hour is over.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from django.db import connection
from django.db.models.functions import Now

from mailer.delivery import limits
from mailer.models import Circuit, TransportState

HOURS = 25
"""The hours that count, with the present one."""

HOUR = "floor(extract(epoch FROM statement_timestamp()) / 3600)::bigint"
"""The keys of `TransportState.taken`, by the database's clock. After the clock was corrected, hours may be in the future; they
count as the present one."""
_HOURS = f"""
    SELECT least(key::bigint, {HOUR}) AS hour, value::bigint AS number
    FROM jsonb_each_text(transport.taken) WHERE key::bigint > {HOUR} - {HOURS}
"""  # noqa: S608 - only constants
TAKEN = f"(SELECT coalesce(sum(number), 0) FROM ({_HOURS}) AS hours)"  # noqa: S608
"""The messages of the last 24 hours, in SQL."""
WITH_ONE_MORE = f"""(
    SELECT jsonb_object_agg(hour, number) FROM (
        SELECT hour, sum(number) AS number FROM ({_HOURS} UNION ALL SELECT {HOUR}, 1) AS hours GROUP BY hour
    ) AS counted
)"""  # noqa: S608
"""The next value of `taken`, in SQL."""

GIVE_BACK = f"""
UPDATE {TransportState._meta.db_table} AS transport SET taken = taken || coalesce((
    SELECT jsonb_build_object(key, value::bigint - 1)
    FROM jsonb_each_text(taken) WHERE value::bigint > 0 ORDER BY key::bigint DESC LIMIT 1
), '{{}}')
WHERE alias = %s
"""  # noqa: S608 - the name is our own model's


def give_back(alias: str) -> None:
    """Count one message less: it was counted, and not sent."""
    if limits.of(alias).quota is not None:
        with connection.cursor() as cursor:
            cursor.execute(GIVE_BACK, [alias])


def used_up(aliases: Iterable[str]) -> Mapping[str, list[Circuit]]:
    """Return a pause for each of these transports whose quota is used up. Without a quota it costs no statement.

    No table has these pauses, so that a quota that is raised counts as soon as a process knows it.
    """
    quotas = {alias: quota for alias in aliases if (quota := limits.of(alias).quota)}
    if not quotas:
        return {}
    rows = TransportState.objects.filter(alias__in=quotas).order_by("alias").values_list("alias", "taken", Now())
    ends = {alias: (free_at(taken, quotas[alias], now), quotas[alias]) for alias, taken, now in rows}
    return {alias: [_pause(alias, quota, end)] for alias, (end, quota) in ends.items() if end}


def free_at(taken: Mapping[str, int], quota: int, now: datetime) -> datetime | None:
    """Return when the next message may be sent. None if it may be sent now."""
    hours = taken_by_hour(taken, now)
    end, left = None, hours.total()
    for hour in sorted(hours):
        if left < quota:
            break
        end, left = datetime.fromtimestamp((hour + HOURS) * 3600, UTC), left - hours[hour]
    return end


def taken_by_hour(taken: Mapping[str, int], now: datetime) -> Counter[int]:
    """Return the messages of the last 24 hours, by the hour."""
    present = int(now.timestamp() // 3600)
    hours: Counter[int] = Counter()
    for hour, number in taken.items():
        if int(hour) > present - HOURS:
            hours[min(int(hour), present)] += number
    return hours


def _pause(alias: str, quota: int, end: datetime) -> Circuit:
    pause = Circuit(transport=alias, paused_until=end, reason=f"its daily quota of {quota} is used up")
    pause.by_quota = True
    pause.is_over = False  # type: ignore[attr-defined]  # as circuit.paused() annotates it
    return pause
