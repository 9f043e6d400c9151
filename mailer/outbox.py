"""The public API: enqueue an e-mail in the current transaction; it is sent if, and only if, that commits."""

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from itertools import batched
from typing import Any

import structlog
from django.contrib.auth import get_user_model
from django.core.mail import EmailMessage
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from mailer import routes, signals, tracing
from mailer.addresses import for_envelope
from mailer.composing.built_by_django import DjangoMail
from mailer.conf import sender_domain
from mailer.database import now
from mailer.delivery.broker import kick, publish_on_commit
from mailer.delivery.slowness import slowness
from mailer.delivery.steps import EXPIRED
from mailer.email import Email, find
from mailer.mime import serializer
from mailer.models import ACCEPTED, SOURCES, UNSETTLED, WAITING, Message, MessageQuerySet, Payload, State
from mailer.recipients import suppression
from mailer.recipients.subscriptions import copy_unsubscribes as copy_unsubscribes
from mailer.recipients.suppression import has_arrived as has_arrived
from mailer.replicas import reading_from_writer

log = structlog.get_logger(__name__)

NOW = timedelta(0)
BATCH = 1000
"""The number of messages that `enqueue_many` keeps in memory at once."""
LONGEST_WAIT = 5
"""Seconds. A call waits at most this long for another transaction that uses the same key."""

LIMIT_WAITING = "SELECT set_config('lock_timeout', %s, true) WHERE current_setting('lock_timeout') = '0'"
"""Sets the limit, unless the application has set its own."""
STOP_LIMITING = "SELECT set_config('lock_timeout', '0', true)"
BUSY = ("55P03", "40P01")
"""SQLSTATE of a lock that was not available in time, and of a deadlock."""

# A key-share lock hinders no claim and no other call with the key. It excludes only the FOR UPDATE under which a worker
# decides that a message is not wanted: the worker sees what this transaction commits, or this one sees what it decided.
# All other locks of messages are FOR NO KEY UPDATE (`no_key=True`), so nobody waits for the end of this transaction.
FIND_BY_KEY = f"""
SELECT * FROM {Message._meta.db_table}
WHERE message_id_header = %(message_id_header)s
   OR (key = %(key)s AND state = ANY(%(unsettled)s)
       AND NOT (state = ANY(%(waiting)s) AND coalesce(expires_at <= statement_timestamp(), false)))
FOR KEY SHARE
"""  # noqa: S608 - the name is our own model's


MOVED_AT_ONCE = 2_000
"""The number of messages that one transaction moves. It holds the locks of their rows, for a fraction of a second."""
NEW_ROUND: dict[str, Any] = {
    "first_due_at": Now(),
    "due_at": Now(),
    "settled_at": None,
    "counted_after": F("attempts"),
    "reservations": 0,
    "troubled_since": None,
    "notify_at": None,
}
"""The changes of a message that a person retries."""

Progress = Callable[[int], object]
"""Is called with the number of messages that are done since the last call."""


def _silent(number: int) -> None:
    """Report no progress."""


class KeyBusy(OperationalError):
    """Another transaction uses the key, and it did not end in time, or it waits for a key of this transaction.

    Nothing was written, and the caller's transaction can go on. To try again, repeat the whole transaction.
    """


def enqueue(email: Email, *, delay: timedelta = NOW, key: str = "", using: str = "") -> Message:
    """Enqueue an e-mail in the current transaction. It is delivered `delay` from now, once the transaction commits.

    A `key` makes it unique: an unsettled message with the same key is returned instead, even if several transactions ask at
    the same time. A waiting message whose deadline has passed is settled as expired, and does not keep the key. Such a call
    waits for a transaction that uses the key: LONGEST_WAIT at most, then it raises KeyBusy. Two transactions that enqueue
    several keys in different order wait for each other, and one gets KeyBusy: enqueue keys in sorted order.

    `using` is the alias in MAILERS of the only transport that it may take; without it, it takes the default
    route.

    Return the message's row. Raises TypeError for a field that cannot be stored, such as an unsaved instance, and ValueError
    if `using` is not an alias in MAILERS, or if the domain of the recipient cannot be encoded (IDNA 2008).
    """
    return _enqueue(_new_message(email, delay=delay, key=key, using=using), delay)


def enqueue_many(
    emails: Iterable[Email],
    *,
    delay: timedelta = NOW,
    using: str = "",
    progress: Progress = _silent,
) -> int:
    """Enqueue e-mails in one transaction. Return their number.

    It works in batches of BATCH, so `emails` may be a generator over a table of any size, and calls `progress` with the size
    of each batch. An exception in `emails` or `progress` rolls everything
    back and is raised.

    A second call enqueues them again. To prevent that, write a row with a unique value in the same transaction. If a user of
    `Email.user` is deleted before the transaction ends, the database rejects the whole transaction.
    """
    enqueued: Counter[str] = Counter()
    with transaction.atomic():
        for batch in batched(emails, BATCH):
            _copy([_columns(email, using) for email in batch], due_at=now() + delay)
            enqueued.update(email.queue for email in batch)
            progress(len(batch))
        transaction.on_commit(lambda: log.info("enqueued many", messages=enqueued.total()), robust=True)
        for queue in enqueued:
            transaction.on_commit(partial(kick, queue, delay), robust=True)
    return enqueued.total()


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
        return _enqueue(message, NOW)


def resend(message: Message) -> Message:
    """Enqueue the same e-mail as a new message, which refers to the old one. The old one does not change.

    Its Message-ID is new, so receivers do not drop it as a copy. Raises UnknownKind and ReferenceGone, and ValueError if its
    transport is no longer in MAILERS.
    """
    with transaction.atomic(), reading_from_writer():
        _keep_body(message)
        again = _new_message(find(message.kind).load(message.arguments), using=message.transport)
        again.resent_from = message
        return _enqueue(again, NOW)


def _new_message(email: Email, *, delay: timedelta = NOW, key: str = "", using: str = "") -> Message:
    due_at = Now() + delay
    return Message(**_columns(email, using), key=key, first_due_at=due_at, due_at=due_at)


def _columns(email: Email, using: str) -> dict[str, Any]:
    """Return the columns of a new message. Those of all messages have the same order."""
    if using and using not in routes.names():
        raise ValueError(f"MAILERS has no transport {using!r}; it has {', '.join(routes.names()[1:]) or 'none'}")
    user = email.user()
    if user is not None and not isinstance(user, get_user_model()):  # its key might be that of another person
        raise TypeError(f"{email.kind}.user() returned a {type(user).__name__}; it must return a user or None")
    return {
        "kind": email.kind,
        "arguments": email.arguments(),
        "payload_id": email.payload.pk if isinstance(email, DjangoMail) else None,
        "user_id": user.pk if user is not None else None,
        "recipient": for_envelope(email.recipient().address),
        "message_id_header": f"<{uuid.uuid4().hex}@{sender_domain()}>",  # every attempt uses it
        "queue": str(email.queue),
        "transport": using,
        "expires_at": email.expires_at(),
        "traceparent": tracing.current(),
    }


def _copy(rows: Sequence[dict[str, Any]], *, due_at: datetime) -> None:
    """Insert many rows by COPY, which costs a fifth of an INSERT for each row."""
    same = {field.attname: field.get_default() for field in Message._meta.concrete_fields if not field.has_db_default()}
    same |= {"first_due_at": due_at, "due_at": due_at}
    del same[Message._meta.pk.attname]
    for name in rows[0]:
        same.pop(name, None)
    statement = f"COPY {Message._meta.db_table} ({', '.join([*same, *rows[0]])}) FROM STDIN"
    fields = [Message._meta.get_field(name) for name in rows[0]]
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            # As an INSERT would write them: a deadline without a zone is in the current one, not in the database's.
            values = [each.get_db_prep_save(row[each.attname], connection) for each in fields]  # type: ignore[union-attr]
            copy.write_row([*same.values(), *values])


def _enqueue(message: Message, delay: timedelta) -> Message:
    if message.key:
        row = _save_or_find(message)
        if row.message_id_header != message.message_id_header:
            return row  # an earlier message has the key
    else:
        row = message
        row.save(force_insert=True)
    due_at = row.due_at.isoformat(timespec="milliseconds")
    transaction.on_commit(lambda: log.info("enqueued", **row.log_fields(), due_at=due_at), robust=True)
    publish_on_commit(row, delay)
    return row


def _save_or_find(message: Message) -> Message:
    """Save the message, or find the unsettled one with its key. Raises KeyBusy.

    ON CONFLICT DO NOTHING waits for a transaction that inserted the same key. The loop is for a message that is settled
    between two statements. It is limited, because a transaction in REPEATABLE READ may never see the row.
    """
    values: dict[str, Any] = {"message_id_header": message.message_id_header, "key": message.key}
    values |= {"waiting": list(WAITING), "unsettled": list(UNSETTLED)}
    with _limited_waiting(message.key):
        for _ in range(10):
            Message.objects.bulk_create(
                [message], ignore_conflicts=True
            )  # sets no primary key, so the row is read back
            row = next(iter(Message.objects.raw(FIND_BY_KEY, values, using=connection.alias)), None)
            if row is not None:
                return row
            _expire_overdue(message.key)
    raise OperationalError(f"the message with the key {message.key!r} exists, but this transaction cannot read it")


@contextmanager
def _limited_waiting(key: str) -> Iterator[None]:
    """Wait for other transactions LONGEST_WAIT at most. Raises KeyBusy, and undoes what was written in this context."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(LIMIT_WAITING, [f"{LONGEST_WAIT}s"])
            is_ours = cursor.rowcount == 1
            yield
            if is_ours:
                cursor.execute(STOP_LIMITING)
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) not in BUSY:
            raise
        raise KeyBusy(
            f"another transaction uses the key {key!r}, and has not ended. Repeat this transaction. "
            "If it enqueues several keys, enqueue them in sorted order; keep transactions with keys short."
        ) from error


def _expire_overdue(key: str) -> None:
    """Settle the waiting message with this key if its deadline has passed: it will not be sent, so the key is free."""
    for message in Message.objects.waiting().filter(key=key, expires_at__lte=Now()).select_for_update(no_key=True):
        row, notify = Message.objects.filter(pk=message.pk), signals.to_notify(message.kind)
        if row.move(EXPIRED.state, reason=EXPIRED.reason, **notify):
            signals.call_receivers_on_commit(message)


def cancel(message: Message, reason: str = "cancelled by the application") -> bool:
    """Cancel a message that is waiting or held. False if it is being sent or is settled."""
    return cancel_all(Message.objects.filter(pk=message.pk), reason=reason) == 1


def retry(messages: MessageQuerySet, *, reason: str, progress: Progress = _silent) -> int:
    """Queue held or failed messages again, for as long as new ones are tried. Return the number of queued messages.

    Messages whose body was erased are skipped, and those whose key another unsettled message has. `progress` is called with
    the size of each batch that is done.
    """
    return _move_each(messages, State.QUEUED, reason=reason, progress=progress)


def is_slow() -> bool:
    """Return whether urgent mail is slow: no worker serves it, every transport is paused, or some is due for half a minute.

    It is quick, and the same for every address, so a page can say so to the person who waits for a mail. What it found is
    remembered for a few seconds. False if the database cannot be asked.
    """
    return slowness.is_slow()


def why_no_mail(address: str) -> str:
    """Return why this address gets no mail at all, for a page to the person: a value of `models.Cause`, such as "bounce".

    Empty if it gets mail. It does not depend on an account: whoever types an address learns that mail to it came back.
    """
    return str(suppression.cause_for(address) or "")


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


def _move_each(messages: MessageQuerySet, to: State, *, reason: str, progress: Progress = _silent) -> int:
    """Move messages in batches.

    Most of a batch moves in one transaction, with one line in the log. What needs more care, or is in use by another
    transaction, moves one by one.
    """
    moved = 0
    found = messages.filter(state__in=SOURCES[to]).select_related(None).only("kind", "queue", "key", "payload")
    for batch in batched(found.iterator(), MOVED_AT_ONCE):
        together = _move_together(batch, to, reason) if len(batch) > 1 else set()
        alone = [message for message in batch if message.pk not in together]
        moved += len(together) + sum(_move_one(message, to, reason) for message in alone)
        progress(len(batch))
    return moved


def _move_together(batch: Sequence[Message], to: State, reason: str) -> Collection[int]:
    """Move those of the messages that are free and have nothing to be decided. Return their primary keys."""
    try:
        with _limited_waiting(""):
            free = _lock_free(batch, to)
            rows = Message.objects.filter(pk__in=[message.pk for message in free])
            if to is State.QUEUED:
                rows.move(to, reason=reason, **NEW_ROUND)
            else:
                for kind in {message.kind for message in free}:
                    rows.filter(kind=kind).move(to, reason=reason, **signals.to_notify(kind))
            _follow_up_together(free, to, reason)
    except (IntegrityError, KeyBusy):  # another transaction took one of the keys, or a row, at this moment
        return set()
    return {message.pk for message in free}


def _lock_free(batch: Sequence[Message], to: State) -> list[Message]:
    """Lock those of the messages that no other transaction holds, and that can be moved without a look at each."""
    rows = Message.objects.filter(pk__in=[message.pk for message in batch], state__in=SOURCES[to]).order_by("pk")
    bodies: set[uuid.UUID] = set()
    if to is State.QUEUED:
        payloads = Payload.objects.filter(pk__in=[message.payload_id for message in batch if message.payload_id])
        bodies = set(payloads.order_by("pk").select_for_update(skip_locked=True).values_list("pk", flat=True))
        is_taken = Exists(Message.objects.filter(~Q(key=""), key=OuterRef("key"), state__in=UNSETTLED))
        rows = rows.filter(~is_taken, answers={})
    locked = set(rows.select_for_update(no_key=True, skip_locked=True, of=("self",)).values_list("pk", flat=True))
    free = [message for message in batch if message.pk in locked]
    if to is not State.QUEUED:
        return free
    free = [message for message in free if message.kind != DjangoMail.kind or message.payload_id in bodies]
    first = {message.key: message.pk for message in reversed(free)}  # of several with one key
    return [message for message in free if not message.key or first[message.key] == message.pk]


def _move_one(message: Message, to: State, reason: str) -> bool:
    with transaction.atomic():
        if to is State.QUEUED:
            has_moved = _keep_body(message) and _requeue(message, reason)
        else:
            row, notify = Message.objects.filter(pk=message.pk), signals.to_notify(message.kind)
            has_moved = row.move(to, reason=reason, **notify) == 1
        if has_moved:
            _follow_up(message, to, reason)
    return has_moved


def _follow_up(message: Message, to: State, reason: str) -> None:
    """Once the move is committed: write it to the log, and hand the message over or call its receivers."""
    transaction.on_commit(partial(log.info, f"moved to {to}", **message.log_fields(), reason=reason), robust=True)
    if to is State.QUEUED:
        publish_on_commit(message, NOW)
    else:
        signals.call_receivers_on_commit(message)


def _follow_up_together(moved: Sequence[Message], to: State, reason: str) -> None:
    """Do the same for many, with one line for all of them, and one task for each queue."""
    if not moved:
        return
    numbers = [message.pk for message in moved]
    fields = {"messages": len(moved), "first_id": min(numbers), "last_id": max(numbers), "reason": reason}
    transaction.on_commit(partial(log.info, f"moved to {to}", **fields), robust=True)
    if to is State.QUEUED:
        for queue in {message.queue for message in moved}:
            transaction.on_commit(partial(kick, queue), robust=True)
    else:
        for message in moved:
            signals.call_receivers_on_commit(message)


def _requeue(message: Message, reason: str) -> bool:
    """Move the message to QUEUED. False if its state does not allow it, or if another unsettled message has its key."""
    row = Message.objects.filter(pk=message.pk)
    if not message.key:
        return row.move(State.QUEUED, reason=reason, **_new_round(message)) == 1
    try:
        with _limited_waiting(message.key):
            _expire_overdue(message.key)
            return row.move(State.QUEUED, reason=reason, **_new_round(message)) == 1
    except (IntegrityError, KeyBusy) as error:  # the constraint also sees what other transactions write at this moment
        log.info("not queued again: its key is taken", **message.log_fields(), error=type(error).__name__)
        return False


def _new_round(message: Message) -> dict[str, object]:
    # Locked and read again, because a late answer may have arrived.
    answers = Message.objects.select_for_update(no_key=True).values_list("answers", flat=True).get(pk=message.pk)
    return NEW_ROUND | {"answers": {address: answer for address, answer in answers.items() if answer == ACCEPTED}}


def _keep_body(message: Message) -> bool:
    """Lock the stored body, so that it is not erased until the transaction ends. False if it was erased already."""
    if message.kind != DjangoMail.kind or message.payload_id is None:
        return message.kind != DjangoMail.kind
    return bool(Payload.objects.select_for_update().filter(pk=message.payload_id).values_list("pk"))
