"""Delete settled messages and stored bodies when their retention ends."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from mailer import email
from mailer.conf import options
from mailer.models import SETTLED, DeliveryEvent, Message, MessageQuerySet, Payload

log = structlog.get_logger(__name__)

BATCH = 500
"""Rows that one statement deletes."""


def purge(progress: Callable[[int], object] = lambda _: None) -> int:
    """Delete old messages with their attempts, and stored bodies that are not needed any more.

    Return the number of messages. `progress` is called with the number of each batch that is deleted.
    """
    purged = sum(_in_batches(messages.order_by("pk").values_list("pk", flat=True), progress) for messages in _old())
    erased = _erase_bodies()
    _purge_reports()
    if purged or erased:
        log.info("purged", messages=purged, bodies=erased, retention_days=options().retention_days)
    return purged


def _purge_reports() -> None:
    """Delete the reports about no message of ours. The others go with their message."""
    retention = timedelta(days=options().retention_days)
    DeliveryEvent.objects.filter(message=None, apply_at=None, received_at__lt=Now() - retention).delete()


def purgeable() -> tuple[int, int]:
    """Return the number of messages and of stored bodies that `purge` would delete now."""
    messages = sum(messages.count() for messages in _old())
    return messages, _old_bodies().count()


def _old() -> Iterator[MessageQuerySet]:
    """Yield the settled messages whose retention has ended, kind by kind."""
    for messages, retention in _retentions():
        yield Message.objects.filter(messages, state__in=SETTLED, settled_at__lt=Now() - retention)


def _retentions() -> Iterator[tuple[Q, timedelta]]:
    """Yield the retention of each kind that sets its own, then that of all other messages."""
    own = {kind: kind.retention for kind in email.kinds() if kind.retention is not None}
    for kind, retention in own.items():
        yield Q(kind__in=kind.names()), retention
    yield ~Q(kind__in=[name for kind in own for name in kind.names()]), timedelta(days=options().retention_days)


def _in_batches(old: "QuerySet[Message, int]", progress: Callable[[int], object]) -> int:
    purged = 0
    while batch := _purge_batch(old):
        purged += batch
        progress(batch)
    return purged


def _old_bodies() -> QuerySet[Payload]:
    limit = Now() - timedelta(days=options().body_retention_days)
    needed = Message.objects.filter(~Q(state__in=SETTLED) | Q(settled_at__gte=limit), payload=OuterRef("pk"))
    return Payload.objects.filter(~Exists(needed), created_at__lt=limit)


def _erase_bodies() -> int:
    old = _old_bodies()
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
