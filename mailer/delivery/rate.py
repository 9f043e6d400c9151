"""The rate limit of a transport, shared by all workers."""

from datetime import timedelta
from typing import Any

from django.db import connection

from mailer.conf import options
from mailer.models import Queue, TransportState

LONGEST_WAIT = {
    Queue.CRITICAL: timedelta(seconds=10),
    Queue.DEFAULT: timedelta(seconds=5),
    Queue.BULK: timedelta(seconds=5),
}
"""How long a worker waits with a message for the rate limit. Critical messages may book slots further ahead, so that a backlog
of other messages does not block them."""

# GCRA (ITU-T I.371): `slot_at` is a virtual clock. Each message moves it by one interval, unless it is already too far ahead.
BOOK_SLOT = f"""
INSERT INTO {TransportState._meta.db_table} AS transport (alias, failures, reason, slot_at)
VALUES (%(alias)s, 0, '', now() + %(interval)s)
ON CONFLICT (alias) DO UPDATE SET slot_at = greatest(transport.slot_at, now()) + %(interval)s
    WHERE transport.slot_at IS NULL OR transport.slot_at <= now() + %(longest_wait)s
RETURNING extract(epoch FROM slot_at - %(interval)s - clock_timestamp())
"""  # noqa: S608 - the name is our own model's


def book_slot(alias: str, longest_wait: timedelta) -> float | None:
    """Book the next slot of the transport. Return the seconds until then.

    None, and nothing is booked, if the slot is further away than `longest_wait`.
    """
    rate = options().rate_per_second
    if rate is None:
        return 0.0
    values: dict[str, Any] = {"alias": alias, "interval": timedelta(seconds=1 / rate), "longest_wait": longest_wait}
    with connection.cursor() as cursor:
        cursor.execute(BOOK_SLOT, values)
        booked = cursor.fetchone()
    return max(float(booked[0]), 0.0) if booked else None
