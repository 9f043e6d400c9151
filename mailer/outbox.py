"""The public API: enqueue an e-mail in the current transaction; it is sent if, and only if, that commits."""

import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta
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
from mailer.recipients.subscriptions import copy_unsubscribes as copy_unsubscribes

log = structlog.get_logger(__name__)

NOW = timedelta(0)
BATCH = 1000
"""The number of messages that `enqueue_many` keeps in memory at once."""


def enqueue(email: Email, *, delay: timedelta = NOW, key: str = "", using: str = "") -> Message:
    """Enqueue an e-mail in the current transaction. It is delivered `delay` from now, once the transaction commits.

    A `key` makes it unique: an unsettled message with the same key is returned instead, even if several transactions ask at
    the same time. `using` is the alias in MAILERS of the only transport that it may take; without it, it takes the default
    route.

    Return the message's row. Raises TypeError for a field that cannot be stored, such as an unsaved instance, and ValueError
    if `using` is not an alias in MAILERS.
    """
    return _enqueue(_new_message(email, delay=delay, key=key, using=using))


def enqueue_many(
    emails: Iterable[Email],
    *,
    delay: timedelta = NOW,
    using: str = "",
    progress: Callable[[int], object] = lambda _: None,
) -> int:
    """Enqueue e-mails in one transaction. Return their number.

    It works in batches of BATCH, so `emails` may be a generator over a table of any size, and calls `progress` with the size
    of each batch. The sweep publishes them, a few hundred at a time. An exception in `emails` or `progress` rolls everything
    back and is raised.

    A second call enqueues them again. To prevent that, write a row with a unique value in the same transaction. If a user of
    `Email.user` is deleted before the transaction ends, the database rejects the whole transaction.
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
    """Enqueue a message that Django built; called by the outbox backend.

    Raises ValueError, as sending would, if it cannot be sent: an invalid address, a line break in a header, more than
    POSTCOMMIT_MAX_MESSAGE_SIZE.
    """
    document = serializer.dump(built)
    with transaction.atomic():
        mail = DjangoMail(Payload.objects.create(document=document))
        message = _new_message(mail, using=using)
        message.message_id_header = serializer.message_id(mail.built.extra_headers) or message.message_id_header
        return _enqueue(message)


def resend(message: Message) -> Message:
    """Enqueue the same e-mail as a new message, which refers to the old one. The old one does not change.

    Its Message-ID is new, so receivers do not drop it as a copy. Raises UnknownKind and ReferenceGone, and ValueError if its
    transport is no longer in MAILERS.
    """
    with transaction.atomic():
        _keep_body(message)
        again = _new_message(find(message.kind).load(message.arguments), using=message.transport)
        again.resent_from = message
        return _enqueue(again)


def _new_message(email: Email, *, delay: timedelta = NOW, key: str = "", using: str = "") -> Message:
    if using not in routes.names():
        raise ValueError(f"MAILERS has no transport {using!r}; it has {', '.join(routes.names()[1:]) or 'none'}")
    now = timezone.now()
    return Message(
        kind=email.kind,
        arguments=email.arguments(),
        payload=email.payload if isinstance(email, DjangoMail) else None,
        user=email.user(),
        recipient=email.recipient().address,
        message_id_header=f"<{uuid.uuid4().hex}@{sender_domain()}>",  # every attempt uses it
        queue=email.queue,
        transport=using,
        key=key,
        created_at=now,
        due_at=now + delay,
        publish_at=next_sweep(now + delay, now),
        expires_at=email.expires_at(),
    )


def _enqueue(message: Message) -> Message:
    if message.key:
        row = _save_or_find(message)
        if row.message_id_header != message.message_id_header:
            return row  # an earlier message has the key
    else:
        row = message
        row.save(force_insert=True)
    due_at = row.due_at.isoformat(timespec="milliseconds")
    transaction.on_commit(lambda: log.info("enqueued", **row.log_fields(), due_at=due_at), robust=True)
    publish_on_commit(row)
    return row


def _save_or_find(message: Message) -> Message:
    """Save the message, or find the unsettled one with its key.

    ON CONFLICT DO NOTHING waits for a transaction that inserted the same key. The loop is for a message that is settled
    between the two statements. It is limited, because a transaction in REPEATABLE READ may never see the row.
    """
    for _ in range(10):
        Message.objects.bulk_create([message], ignore_conflicts=True)  # sets no primary key, so the row is read back
        same_key = Q(key=message.key, state__in=UNSETTLED)
        row = Message.objects.filter(Q(message_id_header=message.message_id_header) | same_key).first()
        if row is not None:
            return row
    raise OperationalError(f"the message with the key {message.key!r} exists, but this transaction cannot read it")


def cancel(message: Message, reason: str = "cancelled by the application") -> bool:
    """Cancel a message that is waiting or held. False if it is being sent or is settled."""
    return cancel_all(Message.objects.filter(pk=message.pk), reason=reason) == 1


def retry(messages: MessageQuerySet, *, reason: str) -> int:
    """Queue held or failed messages again, with the full number of attempts. Return the number of queued messages.

    Messages whose body was erased are skipped, and those whose key another unsettled message has.
    """
    return _move_each(messages, State.QUEUED, reason=reason)


def messages_of(user: Any) -> MessageQuerySet:
    """Return the unsettled messages about this user.

    Not the messages to the user's address: an account may use an address that is not its own.
    """
    return Message.objects.filter(user=user, state__in=UNSETTLED)


def cancel_all(messages: MessageQuerySet, *, reason: str) -> int:
    """Cancel waiting or held messages. Return the number of cancelled messages."""
    return _move_each(messages, State.CANCELLED, reason=reason)


def mark_as_delivered(messages: MessageQuerySet, *, reason: str) -> int:
    """Settle held messages that arrived, as a person found out. Return the number of settled messages."""
    return _move_each(messages.filter(state=State.HELD), State.SENT, reason=reason)


def _move_each(messages: MessageQuerySet, to: State, *, reason: str) -> int:
    """Move messages one by one, with a log line each: a person or the application decided on each of them."""
    moved = 0
    for message in messages.iterator():
        with transaction.atomic():
            if to is State.QUEUED and not _keep_body(message):
                continue
            row = Message.objects.filter(pk=message.pk)
            if to is State.QUEUED and message.key:  # another message with its key may have been enqueued since
                same_key = Message.objects.filter(key=message.key, state__in=UNSETTLED).exclude(pk=message.pk)
                row = row.exclude(Exists(same_key))
            if not row.move(to, reason=reason, **(_new_round(message) if to is State.QUEUED else {})):
                continue
            moved += 1
            signals.send_settled(message)
            if to is State.QUEUED:
                message.refresh_from_db()
                publish_on_commit(message)
        log.info(f"moved to {to}", **message.log_fields(), reason=reason)
    return moved


def _new_round(message: Message) -> dict[str, object]:
    now = timezone.now()
    # Locked and read again, because a late answer may have arrived.
    answers = Message.objects.select_for_update().values_list("answers", flat=True).get(pk=message.pk)
    return {
        "due_at": now,
        "publish_at": next_sweep(now, now),
        "settled_at": None,
        "counted_after": F("attempts"),
        "handovers": 0,
        "answers": {address: answer for address, answer in answers.items() if answer == ACCEPTED},
    }


def _keep_body(message: Message) -> bool:
    """Lock the stored body, so that it is not erased until the transaction ends. False if it was erased already."""
    if message.kind != DjangoMail.kind or message.payload_id is None:
        return message.kind != DjangoMail.kind
    return bool(Payload.objects.select_for_update().filter(pk=message.payload_id).values_list("pk"))
