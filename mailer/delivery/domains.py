"""The messages that are sent to one recipient's domain at a time, over all workers: `domains` of a transport's limits.

What is counted are the messages in the state `sending`, so nothing has to be given back, not even by a worker that dies. Only
a message whose domain has a limit costs statements. If its domain is full, it is due again after PAUSE, and others go on.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from django.db import connection, transaction

from mailer.delivery import limits
from mailer.delivery.limits import SAME
from mailer.delivery.steps import Postponed
from mailer.models import Message, State

PAUSE = timedelta(seconds=1)
"""Until a message whose domain is full is due again."""
TRIES = 50
BETWEEN_TRIES = 0.002
"""Seconds. Another worker has the lock while it claims a message, which takes milliseconds, unless it stands still."""

LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('recipients at ' || %s, 0))"
"""Until the end of the transaction, as pgbouncer lends connections by transaction."""


@dataclass(frozen=True, slots=True)
class Place:
    """A domain with a limit."""

    domain: str
    limit: int

    def __str__(self) -> str:
        return f"{self.limit} messages are being sent to {self.domain}, which is the limit"

    @property
    def full(self) -> Postponed:
        """What becomes of a message if the domain is full."""
        return Postponed(str(self), PAUSE)

    def is_full(self) -> bool:
        return sending()[self.domain] >= self.limit


def place_for(alias: str, recipient: str) -> Place | None:
    """Return the domain of a recipient, if it has a limit on this transport."""
    domains = limits.of(alias).domains
    if not domains:
        return None
    domain = name_of(recipient)
    return Place(domain, domains[domain]) if domain in domains else None


def name_of(recipient: str) -> str:
    """Return the domain that a recipient counts for."""
    domain = recipient.rpartition("@")[2].lower()
    return SAME.get(domain, domain)


def sending() -> Counter[str]:
    """Return the number of messages that are being sent now, by the domain that they count for."""
    recipients = Message.objects.filter(state=State.SENDING).order_by().values_list("recipient", flat=True)
    return Counter(map(name_of, recipients))


@contextmanager
def turn_at(place: Place | None) -> Iterator[bool]:
    """Have the turn to claim a message for this domain, alone of all workers. Yield False if the domain is full."""
    if place is None:
        yield True
        return
    with transaction.atomic():
        # Two statements: the second one sees what was claimed while the first one waited.
        yield _is_locked(place) and not place.is_full()


def _is_locked(place: Place) -> bool:
    with connection.cursor() as cursor:
        for _ in range(TRIES):
            cursor.execute(LOCK, [place.domain])
            if cursor.fetchone()[0]:
                return True
            time.sleep(BETWEEN_TRIES)
    return False
