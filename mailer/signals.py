"""Signals for other code. Connect a receiver as to any Django signal:

@receiver(message_settled, sender=OrderShipped)
def note(sender, message, **_):
    Order.objects.filter(pk=message.arguments["order"]).update(was_notified=message.state == State.SENT)
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest, Now
from django.dispatch import Signal

from mailer import email
from mailer.database import is_away
from mailer.models import SETTLED, Message

log = structlog.get_logger(__name__)

message_settled = Signal()
"""Sent with `message` when it is sent, failed, cancelled, expired or suppressed. The sender is the class of its kind.

The outcome is committed first, by itself. Receivers follow in a transaction of their own: their writes commit together. They
are called at least once, and again after an error or a crash: with growing pauses, for a day.
"""

PAUSE = timedelta(seconds=30)
"""The first pause until receivers are called again. The next ones are as long as the time since the message was settled."""
PATIENCE = timedelta(days=1)
"""How long receivers that fail are called again."""
BATCH = 100
"""Messages whose receivers one task calls again."""


def to_notify(kind: str) -> dict[str, Any]:
    """Return the column to set in the UPDATE that settles a message of this kind, if it has receivers."""
    return {"notify_at": Now() + PAUSE} if has_receivers(kind) else {}


def has_receivers(kind: str) -> bool:
    """Return whether messages of this kind have receivers."""
    return message_settled.has_listeners(email.KINDS.get(kind))


def call_receivers_on_commit(message: Message) -> None:
    """Call the receivers after the transaction that settles the message. A failure is logged, and they are called again."""
    if has_receivers(message.kind):
        transaction.on_commit(lambda: call_receivers(message.pk), robust=True)


def call_receivers(message_id: int) -> None:
    """Call the receivers of a settled message that were not called yet. Raises nothing."""
    try:
        with transaction.atomic():
            _call_receivers(message_id)
    except Exception as error:  # a receiver may raise anything
        log.exception("a receiver of message_settled failed and was rolled back", message_id=message_id)
        if is_away(error) and not connection.in_atomic_block:
            connection.close()  # the row says when they are called again


def _call_receivers(message_id: int) -> None:
    if not _lock(message_id):
        return
    message = Message.objects.filter(pk=message_id, state__in=SETTLED, notify_at__isnull=False).first()
    if message is None:
        return
    message_settled.send(email.KINDS.get(message.kind), message=message)
    # An acceptance may have come meanwhile and changed the state. Then they are called once more.
    same = Message.objects.filter(pk=message_id, state=message.state, settled_at=message.settled_at)
    same.update(notify_at=None)


def _lock(message_id: int) -> bool:
    """Lock the calls for a message until the transaction ends. False if another process calls its receivers now.

    Not the row, because an answer that comes late must not wait for a receiver.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended('message_settled', %s))", [message_id])
        return bool(cursor.fetchone()[0])


def overdue() -> Sequence[int]:
    """Return messages whose receivers are to be called again. Give up those that failed for PATIENCE."""
    failed = Message.objects.filter(settled_at__lt=Now() - PATIENCE, notify_at__gt=F("settled_at") + PATIENCE)
    for message in failed[:BATCH]:
        Message.objects.filter(pk=message.pk).update(notify_at=None)
        log.error("receivers of message_settled failed for a day; they are not called again", **message.log_fields())
    return list(Message.objects.filter(notify_at__lte=Now()).order_by("notify_at").values_list("pk", flat=True)[:BATCH])


def postpone(message_ids: Collection[int]) -> None:
    """Note that a task calls these receivers, so that they are called again only after a pause."""
    due = Message.objects.filter(pk__in=message_ids, notify_at__lte=Now())
    due.update(notify_at=Now() + Greatest(Value(PAUSE), Now() - F("settled_at")))
