"""Take a due message in hand. A reservation names the worker and is no claim: when the worker falls silent, the message is
simply due again.

Everything that decides is the clock and the rows of the database, so a worker with a wrong clock takes what the others would.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from typing import Any

from django.db import connection
from django.db.models.functions import Coalesce, Now

from mailer.delivery.heartbeat import heartbeat
from mailer.models import SILENCE, WAITING, Circuit, Message, StreamReputation, Taken, TransportState, Worker
from mailer.text import replace_unstorable

QUARANTINE = 3
"""Workers that may fall silent, one after the other, with the same message in hand, or while they send it. Then a person must
look at it."""

LONGEST_TURN = 1.0
"""Seconds that a reserved message waits for its turn, until it is put back for others."""

FREE = f"""
(worker IS NULL OR (worker = %(me)s AND id <> ALL(%(in_hand)s)) OR NOT EXISTS (
    SELECT 1 FROM {Worker._meta.db_table} AS other
    WHERE other.id = message.worker AND other.seen_at > statement_timestamp() - %(silence)s
) AND worker <> %(me)s)
"""  # noqa: S608 - the name is our own model's
"""A message of this worker that it has not in hand was dropped when the database was away."""

# Of two workers, one locks a row, and the other skips it. A message that a dead worker left behind may be what ended it, so
# it is taken alone: otherwise it would take others with it, and they would count as harmful too.
RESERVE = f"""
WITH candidate AS (
    SELECT id, due_at, coalesce(worker <> %(me)s, false) AS is_left_behind
    FROM {Message._meta.db_table} AS message
    WHERE {{which}} AND state IN {tuple(map(str, WAITING))!r} AND due_at <= statement_timestamp() AND {FREE}
    ORDER BY due_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
), numbered AS (
    SELECT id, row_number() OVER (ORDER BY due_at, id) AS place, is_left_behind FROM candidate
)
UPDATE {Message._meta.db_table} AS message
SET worker = %(me)s, reservations = CASE WHEN is_left_behind THEN reservations + %(died)s ELSE 1 END
FROM numbered
WHERE message.id = numbered.id
  AND place <= coalesce(
      (SELECT greatest(place - 1, 1) FROM numbered WHERE is_left_behind ORDER BY place LIMIT 1), %(limit)s
  )
RETURNING message.*, place,
    expires_at - statement_timestamp() AS time_left, statement_timestamp() - troubled_since AS trouble,
    statement_timestamp() - message.due_at AS late,
    EXISTS (SELECT 1 FROM {Circuit._meta.db_table} WHERE paused_until IS NOT NULL)
    OR EXISTS (SELECT 1 FROM {TransportState._meta.db_table} WHERE rate IS NOT NULL) AS is_any_limited,
    ARRAY(SELECT stream FROM {StreamReputation._meta.db_table} WHERE paused_since IS NOT NULL) AS paused_streams
"""  # noqa: S608 - the names are our own models'
ONE = RESERVE.format(which="id = %(id)s")
NEXT = RESERVE.format(which="queue = %(queue)s AND transport = %(transport)s")


@dataclass(frozen=True, slots=True)
class Reserved:
    """A message that this worker has in hand, with what the database's clock said about it."""

    message: Message
    expires: float
    """The message's deadline on this process's monotonic clock."""
    trouble: timedelta
    """How long it could not be prepared; zero while there is no trouble."""
    late: timedelta
    """How long it has been due."""
    is_any_limited: bool
    """Whether any transport is paused or slowed down."""
    paused_streams: Sequence[str]
    """The same for all messages that were reserved together."""
    taken: Taken

    def is_expired(self) -> bool:
        return time.monotonic() >= self.expires


def reserve(message_id: int) -> Reserved | None:
    """Take this message in hand if it is due and free."""
    return next(iter(_reserve(ONE, 1, Taken.TASK, id=message_id)), None)


def reserve_next(
    queues: Sequence[str], routes: Iterable[str], limit: int, taken: Taken = Taken.KICK
) -> Sequence[Reserved]:
    """Take messages in hand that have been due for longest, of the first of these queues that has any for these routes.

    All of them have the same queue and route.
    """
    routes = list(routes)
    for queue in queues:
        for route in routes:
            if reserved := _reserve(NEXT, limit, taken, queue=queue, transport=route):
                return reserved
    return []


def has_due(queues: Sequence[str], routes: Iterable[str], since: timedelta = timedelta(0)) -> bool:
    """Return whether a message of these queues, for these routes, has been due and free for this long."""
    due, routes = Message.objects.overdue(since), list(routes)
    # One by one: for several at once, PostgreSQL may read the table instead of the index, as it wants one row only.
    return any(due.filter(queue=queue, transport=route).exists() for queue in queues for route in routes)


def _reserve(statement: str, limit: int, taken: Taken, **which: Any) -> Sequence[Reserved]:
    heartbeat.ensure()
    asked = time.monotonic()
    # After the database was away, every worker looks dead at first, and has only dropped what it had in hand.
    died = int(heartbeat.may_judge())
    values = {"me": heartbeat.worker, "silence": SILENCE, "died": died, "limit": limit, **which}
    with heartbeat.reserving:
        values["in_hand"] = heartbeat.in_hand()
        try:
            messages: list[Any] = list(Message.objects.raw(statement, values, using=connection.alias))
        except Exception:
            heartbeat.has_dropped = True  # they may be reserved, and only the answer was lost
            raise
        heartbeat.take(message.pk for message in messages)
    return [_reserved(message, asked, taken) for message in sorted(messages, key=attrgetter("place"))]


def _reserved(message: Any, asked: float, taken: Taken) -> Reserved:
    expires = asked + message.time_left.total_seconds() if message.time_left is not None else math.inf
    trouble = message.trouble or timedelta(0)
    return Reserved(message, expires, trouble, message.late, message.is_any_limited, message.paused_streams, taken)


def release(*messages: Message, reason: str = "", pause: timedelta | None = None) -> int:
    """Put reserved messages back. They are due at once, or after a pause; with a reason if they could not be prepared.

    Return how many of them were still waiting in this worker's hands.
    """
    changes: dict[str, Any] = {"worker": None, "reservations": 0}
    if pause is not None:
        changes["due_at"] = Now() + pause
    if reason:
        changes |= {"reason": replace_unstorable(reason), "troubled_since": Coalesce("troubled_since", Now())}
    ids = [message.pk for message in messages]
    return Message.objects.waiting().filter(pk__in=ids, worker=heartbeat.worker).update(**changes)


def give_back_dropped() -> None:
    """Put back what this process dropped because of an error, and what waits behind a message that takes long.

    While it lives, no other worker sees that they are free.
    """
    heartbeat.let_go(LONGEST_TURN)
    if not heartbeat.has_dropped:
        return
    heartbeat.has_dropped = False
    try:
        mine = Message.objects.waiting().filter(worker=heartbeat.worker).exclude(pk__in=heartbeat.in_hand())
        mine.update(worker=None, reservations=0)
    except Exception:
        heartbeat.has_dropped = True
        raise
