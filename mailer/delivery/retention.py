"""Delete settled messages and stored bodies when their retention ends."""

from collections.abc import Iterator
from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from mailer import email
from mailer.conf import options
from mailer.models import SETTLED, Message, Payload

log = structlog.get_logger(__name__)

BATCH = 500
"""Rows that one statement deletes."""


def purge() -> int:
    """Delete old messages with their attempts, and stored bodies that are not needed any more.

    Return the number of messages.
    """
    purged = sum(_purge(messages, retention) for messages, retention in _retentions())
    erased = _erase_bodies()
    if purged or erased:
        log.info("purged", messages=purged, bodies=erased, retention_days=options().retention_days)
    return purged


def _retentions() -> Iterator[tuple[Q, timedelta]]:
    """Yield the retention of each kind that sets its own, then that of all other messages."""
    own = {kind: kind.retention for kind in email.kinds() if kind.retention is not None}
    for kind, retention in own.items():
        yield Q(kind__in=kind.names()), retention
    yield ~Q(kind__in=[name for kind in own for name in kind.names()]), timedelta(days=options().retention_days)


def _purge(messages: Q, retention: timedelta) -> int:
    settled = Message.objects.filter(messages, state__in=SETTLED, settled_at__lt=Now() - retention)
    old = settled.order_by("pk").values_list("pk", flat=True)
    return sum(iter(lambda: _purge_batch(old), 0))


def _erase_bodies() -> int:
    limit = Now() - timedelta(days=options().body_retention_days)
    needed = Message.objects.filter(~Q(state__in=SETTLED) | Q(settled_at__gte=limit), payload=OuterRef("pk"))
    old = Payload.objects.filter(~Exists(needed), created_at__lt=limit)
    return sum(iter(lambda: _erase_batch(old), 0))


@transaction.atomic
def _erase_batch(old: QuerySet[Payload]) -> int:
    # `outbox` locks a body before it retries or resends its message. So the second query runs under the lock: what it finds
    # unneeded stays unneeded.
    locked = list(old.select_for_update(skip_locked=True).values_list("pk", flat=True)[:BATCH])
    unneeded = list(old.filter(pk__in=locked).values_list("pk", flat=True))
    Payload.objects.only("pk").filter(pk__in=unneeded).delete()  # without loading the documents, which may be large
    return len(unneeded)


@transaction.atomic
def _purge_batch(old: "QuerySet[Message, int]") -> int:
    # Locked: a message that a person retries at this moment is either already deleted, or kept.
    batch = list(old.select_for_update(skip_locked=True)[:BATCH])
    Message.objects.filter(pk__in=batch).delete()
    return len(batch)
