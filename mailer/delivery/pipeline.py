"""The path of one message through a worker: load, admit, still wanted, compose, claim, transmit, settle.

Everything slow comes before the claim, and no transaction is open while the network is used. Admission may wait for the rate
limit, so `is_wanted` is called after it.
"""

import time
from datetime import timedelta
from email.utils import parseaddr

import structlog
from django.core.mail import EmailMessage
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from mailer import addresses, email
from mailer.attachments import StorageAway
from mailer.composing.message import build
from mailer.delivery import circuit, rate
from mailer.delivery.claim import EARLY, claim
from mailer.delivery.settle import settle_persistently, settle_unsent
from mailer.delivery.steps import Postponed, Ready, Transport, Unsent
from mailer.models import Message, Queue, State
from mailer.recipients import suppression
from mailer.text import mask
from mailer.transports import staging
from mailer.transports.transmit import transmit

log = structlog.get_logger(__name__)


def deliver(message_id: int, *, longest_wait: timedelta | None = None) -> None:
    """Deliver one message if it is due and unclaimed, and record the result in its row.

    Under a rate limit it waits for a slot. If that would take more than `longest_wait` (default: the limit of its queue), the
    sweep re-queues the message. Raises OperationalError or InterfaceError if the database is away.
    """
    message = load(message_id)
    if message is None:
        return
    try:
        match _run_steps(message, longest_wait or rate.LONGEST_WAIT[Queue(message.queue)]):
            case Postponed():
                postpone(message)
            case Unsent() as unsent:
                settle_unsent(message, unsent)
    except (email.UnknownKind, circuit.NoSuchTransport) as error:
        log.warning("not delivered; waits for a newer release's worker", **message.log_fields(), reason=str(error))
    except StorageAway as error:
        log.warning("not built; the sweep re-queues it", **message.log_fields(), reason=str(error))


def _run_steps(message: Message, longest_wait: timedelta) -> Postponed | Unsent | None:
    """Run the steps until one of them stops the message. None if it was settled, or if another worker has it."""
    if expired := _expired(message):
        return expired
    transport = admit(message, longest_wait)
    if isinstance(transport, Postponed):
        return transport
    ready = prepare(message)
    if isinstance(ready, Unsent):
        return ready
    claimed = claim(message, ready, transport)
    if not isinstance(claimed, Ready):
        return claimed
    began = time.monotonic()
    outcome = transmit(ready.mail, transport.alias, exclude=ready.exclude)
    settle_persistently(message, transport, outcome, ms=round((time.monotonic() - began) * 1000))
    return None


def load(message_id: int) -> Message | None:
    """Return the message if it is waiting and due."""
    due = Message.objects.waiting().filter(pk=message_id, due_at__lte=timezone.now() + EARLY)
    return due.annotate(is_any_paused=circuit.is_any_paused()).first()


def admit(message: Message, longest_wait: timedelta) -> Transport | Postponed:
    """Return the first working transport of the message's route, after waiting for the rate limit.

    Postponed if every transport of the route is paused, or the wait would be longer than `longest_wait`. Raises
    NoSuchTransport.
    """
    is_any_paused: bool = message.is_any_paused  # type: ignore[attr-defined]  # annotated by load
    transport = circuit.find_transport(message.transport, circuit.pauses() if is_any_paused else {})
    wait = rate.book_slot(transport.alias, longest_wait) if transport else None
    if transport is None or wait is None:
        return Postponed()
    time.sleep(wait)
    return transport


def prepare(message: Message) -> Ready | Unsent:
    """Ask whether the mail is still wanted, and compose it. Raises UnknownKind and StorageAway."""
    if expired := _expired(message):  # it may have waited for the rate limit
        return expired
    kind = email.find(message.kind)
    try:
        mail = kind.load(message.arguments)
        if not mail.is_wanted():
            return Unsent(State.CANCELLED, "no longer wanted when it was due")
        stream = mail.stream.name if mail.stream else ""
        return _exclude_recipients(message, build(mail, message.message_id_header), stream)
    except email.Unwanted as reason:
        return Unsent(State.CANCELLED, str(reason))
    except (OperationalError, InterfaceError, email.UnknownKind, StorageAway):
        raise  # the database or a storage is away, which says nothing about this message
    except Exception as error:  # a template or an e-mail class may raise anything; other messages are not affected
        log.exception("could not be built", **message.log_fields())
        return Unsent(State.FAILED, mask(f"could not be built: {type(error).__name__}: {error}"))


def _expired(message: Message) -> Unsent | None:
    if message.expires_at and message.expires_at <= timezone.now():
        return Unsent(State.EXPIRED, "its deadline passed before it could be sent")
    return None


def _exclude_recipients(message: Message, built: EmailMessage, stream: str) -> Ready | Unsent:
    """Exclude recipients that already have an answer or are suppressed.

    The row and the suppressions name the recipients that the mail was built for, even if a test system redirects it.
    """
    recipient, *others = recipients = [parseaddr(entry)[1] for entry in built.recipients()]
    try:
        staging.intercept(built)
    except staging.Blocked as reason:
        return Unsent(State.SUPPRESSED, str(reason))
    suppressed = suppression.suppressed(recipients if others else ())  # the claim itself checks a single one
    exclude = frozenset({*message.answers, *map(addresses.as_transmitted, suppressed)})
    if all(addresses.as_transmitted(entry) in exclude for entry in built.recipients()):
        return Unsent(State.SUPPRESSED, "every recipient without an answer is suppressed")
    return Ready(built, recipient, str(built.subject), stream, exclude)


def postpone(message: Message) -> None:
    """Leave the message to the sweep, which re-queues as many as can be sent. It spends no attempt."""
    Message.objects.waiting().filter(pk=message.pk).update(publish_at=timezone.now(), handovers=0)
