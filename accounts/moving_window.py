"""Count events of the last minutes, hours or days in a table: one row for a limit and an identity, with the events' times.

The database decides, so that a limit holds over all processes, and outlives a restart of anything else. A statement counts
for all limits at once. Count outside a transaction: one that rolls back would forget the event.
"""

import time
from collections.abc import Collection, Iterable
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from accounts.models import MovingWindow


class Limit(NamedTuple):
    """At most so many events in any so many seconds."""

    amount: int
    seconds: int


Count = tuple[Limit, UUID]
"""A limit, and the key of the identity and the limit for which it counts."""

TABLE = MovingWindow._meta.db_table
ASKED = """unnest(%(keys)s::uuid[], %(amounts)s::int[], %(seconds)s::int[]) AS asked (key, amount, seconds)"""
# The oldest of the last `amount` events is still in the window. Beyond the ends of an array PostgreSQL finds NULL.
IS_FULL = "{kept}.hits[cardinality({kept}.hits) + 1 - {limit}.amount] > %(now)s::float8 - {limit}.seconds"
REACHED = f"""
SELECT FROM {ASKED} JOIN {TABLE} AS kept USING (key) WHERE {IS_FULL.format(kept="kept", limit="asked")}
"""
# Of two events at the same moment, the second waits for the first one's row, and looks at it again. In the order of the keys
# no two statements wait for each other.
HIT = f"""
INSERT INTO {TABLE} AS kept (key, amount, seconds, hits)
SELECT key, amount, seconds, ARRAY[%(now)s::float8] FROM {ASKED} WHERE NOT EXISTS ({REACHED}) ORDER BY key
ON CONFLICT (key) DO UPDATE
    SET hits = (kept.hits || excluded.hits)[cardinality(kept.hits) + 2 - excluded.amount:]
    WHERE ({IS_FULL.format(kept="kept", limit="excluded")}) IS NOT TRUE
RETURNING key
"""  # noqa: S608
PURGE = f"""
DELETE FROM {TABLE} WHERE key IN (
    SELECT key FROM {TABLE} WHERE hits[cardinality(hits)] < %(now)s - seconds ORDER BY key FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608


def hit(counts: Collection[Count]) -> bool:
    """Count one event under each limit. Return False, and count it under none, if one of them is reached.

    Of events at the same moment, one that is refused may have been counted under its other limits.
    """
    return _hit(counts) == {key for _, key in counts}


def hit_once(event: Count, counts: Collection[Count]) -> bool:
    """Count an event that may be asked for again. Return what the first time returned if that counted it.

    Two workers with one message may ask at the same moment: the second must not be refused because of the first.
    """
    _, mark = event
    counted = _hit([event, *counts])
    return counted == {mark, *(key for _, key in counts)} or (mark not in counted and not allows([event]))


def allows(counts: Iterable[Count]) -> bool:
    """Return what `hit` would return, without counting."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT NOT EXISTS ({REACHED})", _values(counts))
        return bool(cursor.fetchone()[0])


def purge() -> int:
    """Delete the windows without an event. Return their number."""
    with connection.cursor() as cursor:
        cursor.execute(PURGE, {"now": time.time()})
        deleted: int = cursor.rowcount
    return deleted


def _hit(counts: Iterable[Count]) -> set[UUID]:
    """Return the keys under which the event was counted."""
    with connection.cursor() as cursor:
        cursor.execute(HIT, _values(counts))
        return {key for (key,) in cursor}


def _values(counts: Iterable[Count]) -> dict[str, str | float]:
    limits = {key: limit for limit, key in counts}
    return {
        "keys": _array(limits),
        "amounts": _array(limit.amount for limit in limits.values()),
        "seconds": _array(limit.seconds for limit in limits.values()),
        "now": time.time(),
    }


def _array(values: Iterable[object]) -> str:
    """Write an array of numbers or keys for PostgreSQL. The driver would take a quarter of a statement's time for lists."""
    return f"{{{','.join(map(str, values))}}}"
