"""The public door: enqueue an e-mail in the transaction that asks for it; it is sent if, and only if, that commits."""

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import batched
from typing import Any

import structlog
from django.core.mail import EmailMessage
from django.db import OperationalError, transaction
from django.db.models import Exists, F, Q
from django.utils import timezone

from mailer import routes, signals
from mailer.composing.built_by_django import DjangoMail
from mailer.conf import sender_domain
from mailer.delivery.broker import next_sweep, publish_on_commit
from mailer.email import Email, find
from mailer.mime import serializer
from mailer.models import ACCEPTED, UNSETTLED, Message, MessageQuerySet, Payload, State
from mailer.recipients import subscriptions

log = structlog.get_logger(__name__)

NOW = timedelta(0)
BATCH = 1000
"""Messages that `enqueue_many` holds in memory at once."""


def enqueue(email: Email, *, delay: timedelta = NOW, key: str = "", using: str = "") -> Message:
    """Writes the e-mail down in the current transaction and has it delivered, `delay` after now, once that commits.

    With a `key`, a message that was enqueued with the same one and is not settled yet is returned instead: there is never
    more than one of them, however many transactions ask at the same time. `using` is the alias in MAILERS of the transport
    that it has to take; without one it takes the usual way, and its fallback.

    Returns the message's row. Raises TypeError for a field that cannot be stored, such as an instance that is not saved,
    and ValueError for a transport that is none.
    """
    return _enqueue(_new_message(email, delay=delay, key=key, using=using))


def enqueue_many(
    emails: Iterable[Email],
    *,
    delay: timedelta = NOW,
    using: str = "",
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Writes any number of e-mails down, all of them in one transaction or none, and returns how many it were.

    It takes BATCH of them at a time, so `emails` may be a generator over a table of any size, and calls `progress` with the
    number of each batch. The sweep hands them over, some hundreds each time. Whatever `emails` or `progress` raises
    comes out, and nothing is written.

    Called twice, it writes them twice: to make that harmless, write a row that can be there once in the same transaction. If
    `Email.user` names a user who is deleted before the transaction ends, the database refuses all of it.
    """
    enqueued = 0
    with transaction.atomic():
        for batch in batched(emails, BATCH):
            rows = [_new_message(email, delay=delay, using=using) for email in batch]
            for row in rows:
                row.publish_at = row.due_at
            Message.objects.bulk_create(rows)
            enqueued += len(rows)
            progress(len(rows))
        transaction.on_commit(lambda: log.info("enqueued many", messages=enqueued), robust=True)
    return enqueued


def enqueue_built(built: EmailMessage, *, using: str = "") -> Message:
    """Writes down a message as Django built it; the outbox backend's door.

    Raises ValueError, as sending it would, for what cannot be sent: an address that is none, a line break in a header, more
    than POSTCOMMIT_MAX_MESSAGE_SIZE.
    """
    document = serializer.dump(built)
    with transaction.atomic():
        mail = DjangoMail(Payload.objects.create(document=document))
        message = _new_message(mail, using=using)
        message.message_id_header = serializer.message_id(mail.built) or message.message_id_header
        return _enqueue(message)


def resend(message: Message) -> Message:
    """Enqueues the same e-mail once more, as a message of its own that names this one, which stays as it is.

    Its Message-ID is a new one, so receivers do not take it for a copy. Raises UnknownKind and ReferenceGone, and ValueError
    if its transport is none any more.
    """
    with transaction.atomic():
        _keep_body(message)
        again = _new_message(find(message.kind).load(message.arguments), using=message.transport)
        again.resent_from = message
        return _enqueue(again)


def _new_message(email: Email, *, delay: timedelta = NOW, key: str = "", using: str = "") -> Message:
    if using not in routes.names():
        raise ValueError(f"there is no transport {using!r} in MAILERS; there are {', '.join(routes.names()[1:])}")
    now = timezone.now()
    return Message(
        kind=email.kind,
        arguments=email.arguments(),
        payload=email.payload if isinstance(email, DjangoMail) else None,
        user=email.user(),
        recipient=email.recipient().address,
        message_id_header=_new_message_id(),
        queue=email.queue,
        transport=using,
        key=key,
        created_at=now,
        due_at=now + delay,
        publish_at=next_sweep(now + delay, now),
        expires_at=email.expires_at(),
    )


def _enqueue(message: Message) -> Message:
    row = _save_or_find(message) if message.key else _save(message)
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
    return cancel_all(Message.objects.filter(pk=message.pk), reason=reason) == 1


def retry(messages: MessageQuerySet, *, reason: str) -> int:
    """Sends held or failed messages after all, with all attempts before them again. Returns how many it were; one whose body
    was erased is none of them."""
    now = timezone.now()
    changes = {
        "due_at": now,
        "publish_at": next_sweep(now, now),
        "settled_at": None,
        "counted_after": F("attempts"),
        "handovers": 0,
    }
    return _moved(messages, State.QUEUED, reason=reason, publish=True, **changes)


def messages_of(user: Any) -> MessageQuerySet:
    """The messages about this user that are not settled yet.

    Not those to her address: anybody may claim an address, and what others write to it is not theirs to cancel.
    """
    return Message.objects.filter(user=user, state__in=UNSETTLED)


def cancel_all(messages: MessageQuerySet, *, reason: str) -> int:
    """Cancels waiting or held messages. Returns how many it were."""
    return _moved(messages, State.CANCELLED, reason=reason)


def mark_as_delivered(messages: MessageQuerySet, *, reason: str) -> int:
    """Settles held messages of which a person found out that they did arrive. Returns how many it were."""
    return _moved(messages.filter(state=State.HELD), State.SENT, reason=reason)


def copy_unsubscribes(old: str, new: str) -> None:
    """Unsubscribe the address `new` from every stream from which `old` is unsubscribed: both belong to one recipient."""
    subscriptions.copy_unsubscribes(old, new)


def _moved(messages: MessageQuerySet, to: State, *, reason: str, publish: bool = False, **changes: object) -> int:
    """Moves messages one by one, each with its log line: a person or the application decided on each of them."""
    moved = 0
    for message in messages.iterator():
        with transaction.atomic():
            row = Message.objects.filter(pk=message.pk)
            if to is State.QUEUED and not _keep_body(message):
                continue
            if to is State.QUEUED:  # the answers as they are by now: a late one may have come in
                answers = Message.objects.select_for_update().values_list("answers", flat=True).get(pk=message.pk)
                changes["answers"] = {a: answer for a, answer in answers.items() if answer == ACCEPTED}
            if to is State.QUEUED and message.key:  # another one with its key may have been enqueued since it failed
                row = row.exclude(
                    Exists(Message.objects.filter(key=message.key, state__in=UNSETTLED).exclude(pk=message.pk))
                )
            if not row.move(to, reason=reason, **changes):
                continue
            moved += 1
            signals.send_settled(message)
            if publish:
                message.refresh_from_db()
                publish_on_commit(message)
        log.info(f"moved to {to}", **message.log_fields(), reason=reason)
    return moved


def _keep_body(message: Message) -> bool:
    """Keeps what Django built from being erased until the transaction ends. False if that has been done."""
    if message.kind != DjangoMail.kind or message.payload_id is None:
        return message.kind != DjangoMail.kind
    return bool(Payload.objects.select_for_update().filter(pk=message.payload_id).values_list("pk"))


def _new_message_id() -> str:
    """A Message-ID of the sender's own domain (RFC 5322, 3.6.4). It is made once, so every attempt bears the same."""
    return f"<{uuid.uuid4().hex}@{sender_domain()}>"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
