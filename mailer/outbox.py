"""The public door: enqueue an e-mail in the transaction that asks for it; it is sent if, and only if, that commits."""

import uuid
from datetime import datetime, timedelta
from email.utils import parseaddr
from typing import Any

import structlog
from django.conf import settings
from django.db import OperationalError, transaction
from django.db.models import Exists, F, Q
from django.utils import timezone

from mailer.email import Email, find
from mailer.models import ACCEPTED, UNSETTLED, Message, MessageQuerySet, State
from mailer.publishing import next_sweep, publish_on_commit

log = structlog.get_logger("mailer.outbox")

NOW = timedelta(0)


def enqueue(email: Email, *, delay: timedelta = NOW, key: str = "") -> Message:
    """Writes the e-mail down in the current transaction and has it delivered, `delay` after now, once that commits.

    With a `key`, a message that was enqueued with the same one and is not settled yet is returned instead: there is never
    more than one of them, however many transactions ask at the same time.

    Returns the message's row. Raises TypeError for a field that cannot be stored, such as an instance that is not saved.
    """
    return _enqueue(email, delay=delay, key=key, resent_from=None)


def resend(message: Message) -> Message:
    """Enqueues the same e-mail once more, as a message of its own that names this one, which stays as it is.

    Its Message-ID is a new one, so receivers do not take it for a copy. Raises UnknownKind and ReferenceGone.
    """
    return _enqueue(find(message.kind).load(message.arguments), delay=NOW, key="", resent_from=message)


def _enqueue(email: Email, *, delay: timedelta, key: str, resent_from: Message | None) -> Message:
    now = timezone.now()
    message = Message(
        kind=email.kind,
        arguments=email.arguments(),
        user=email.user(),
        recipient=email.recipient().address,
        message_id_header=_new_message_id(),
        queue=email.queue,
        key=key,
        created_at=now,
        due_at=now + delay,
        publish_at=next_sweep(now + delay, now),
        expires_at=email.expires_at(),
        resent_from=resent_from,
    )
    row = _save_or_find(message) if key else _save(message)
    if row.message_id_header != message.message_id_header:
        return row  # an earlier one has the key
    transaction.on_commit(lambda: log.info("enqueued", **row.log_fields(), due_at=_iso(row.due_at)), robust=True)
    publish_on_commit(row)
    return row


def _save(message: Message) -> Message:
    message.save(force_insert=True)
    return message


def _save_or_find(message: Message) -> Message:
    """Saves the message, or finds the unsettled one with its key.

    ON CONFLICT DO NOTHING waits for a transaction that is about to commit the same key. The loop is for a message that is
    settled between the two statements; a caller who chose REPEATABLE READ may never see it, hence the bound.
    """
    for _ in range(10):
        Message.objects.bulk_create(
            [message], ignore_conflicts=True
        )  # sets no primary key, so our own is read back too
        same_key = Q(key=message.key, state__in=UNSETTLED)
        row = Message.objects.filter(Q(message_id_header=message.message_id_header) | same_key).first()
        if row is not None:
            return row
    raise OperationalError(f"the message with the key {message.key!r} is there and cannot be read in this transaction")


def cancel(message: Message, reason: str = "cancelled by the application") -> bool:
    """Drops a message that waits, also between two attempts, or is held. False if it is being sent or is settled."""
    return drop(Message.objects.filter(pk=message.pk), reason=reason) == 1


def requeue(messages: MessageQuerySet, *, reason: str) -> int:
    """Sends held or failed messages after all, with all attempts before them again. Returns how many it were."""
    now = timezone.now()
    changes = {
        "due_at": now,
        "publish_at": next_sweep(now, now),
        "settled_at": None,
        "counted_after": F("attempts"),
        "handovers": 0,
    }
    return _moved(messages, State.QUEUED, reason=reason, publish=True, **changes)


def messages_of(user: Any, address: str) -> MessageQuerySet:
    """The messages about this user, and those to her address that are about nobody, that are not settled yet."""
    return Message.objects.filter(Q(user=user) | Q(user=None, recipient=address), state__in=UNSETTLED)


def drop(messages: MessageQuerySet, *, reason: str) -> int:
    """Cancels waiting or held messages. Returns how many it were."""
    return _moved(messages, State.CANCELLED, reason=reason)


def confirm_arrival(messages: MessageQuerySet, *, reason: str) -> int:
    """Settles held messages of which a person found out that they did arrive. Returns how many it were."""
    return _moved(messages.filter(state=State.HELD), State.SENT, reason=reason)


def _moved(messages: MessageQuerySet, to: State, *, reason: str, publish: bool = False, **changes: object) -> int:
    """Moves messages one by one, each with its log line: a person or the application decided on each of them."""
    moved = 0
    for message in messages.iterator():
        with transaction.atomic():
            row = Message.objects.filter(pk=message.pk)
            if to is State.QUEUED:
                changes["answers"] = {a: answer for a, answer in message.answers.items() if answer == ACCEPTED}
            if to is State.QUEUED and message.key:  # another one with its key may have been enqueued since it failed
                row = row.exclude(
                    Exists(Message.objects.filter(key=message.key, state__in=UNSETTLED).exclude(pk=message.pk))
                )
            if not row.move(to, reason=reason, **changes):
                continue
            moved += 1
            if publish:
                message.refresh_from_db()
                publish_on_commit(message)
        log.info(f"moved to {to}", **message.log_fields(), reason=reason)
    return moved


def _new_message_id() -> str:
    """A Message-ID of the sender's own domain (RFC 5322, 3.6.4). It is made once, so every attempt bears the same."""
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2]
    return f"<{uuid.uuid4().hex}@{domain}>"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
