"""The path of one message through a worker: load, ask whether it is still wanted, build, claim, transmit, settle."""

import socket
import time
from dataclasses import dataclass
from datetime import timedelta

import structlog
from django.core.mail import EmailMessage
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from mailer import email, pacing, rendering, suppression, transport
from mailer.conf import options
from mailer.masking import mask
from mailer.models import DeliveryAttempt, Message, State
from mailer.outcomes import Outcome
from mailer.settlement import settle

log = structlog.get_logger("mailer.delivery")

EARLY = timedelta(seconds=1)
"""A worker's clock may be a little ahead of the clock that wrote the due time."""
PAUSE = 0.5
"""Seconds between two tries to write an outcome down."""
SUBJECT_LENGTH = 998
"""What the row keeps of a subject: as much as a header's line may hold (RFC 5322, 2.1.1)."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A message that can be transmitted."""

    mail: EmailMessage
    recipient: str
    subject: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """A message that will not be transmitted, and why."""

    state: State
    reason: str


def deliver(message_id: int) -> None:
    """Delivers one message if it is due and nobody else is at it; whatever becomes of it stands in its row afterwards.

    Everything slow comes before the claim, and no transaction is open while the network is used. Raises OperationalError
    or InterfaceError when the database is away.
    """
    message = _load(message_id)
    if message is None:
        return
    route = pacing.find_route()
    if isinstance(route, pacing.Paused):
        pacing.postpone(message, route.until)
        return
    try:
        prepared = prepare(message)
    except email.UnknownKind as error:
        log.warning("left to a newer worker", **message.log_fields(), reason=str(error))
        return
    if isinstance(prepared, NotSent):
        _settle_without_attempt(message, prepared)
    elif not pacing.enter(route):
        pacing.postpone(message, timezone.now() + options().republish_after)  # somebody else probes the transport
    elif claim(message, prepared, route.alias):
        _settle_stubbornly(message, route, transport.transmit(prepared.mail, route.alias))


def prepare(message: Message) -> Ready | NotSent:
    """Builds the mail from its row, or says why there will be none. Raises UnknownKind."""
    if message.expires_at and message.expires_at <= timezone.now():
        return NotSent(State.EXPIRED, "its deadline passed before it could be sent")
    kind = email.find(message.kind)
    try:
        mail = kind.load(message.arguments)
        if not mail.is_wanted():
            return NotSent(State.CANCELLED, "no longer wanted when it was due")
        recipient = mail.recipient()
        if reason := suppression.reason_against(recipient.address):
            return NotSent(State.SUPPRESSED, f"the address is suppressed: {reason}")
        content = rendering.render(mail, recipient)
        built = rendering.build(content, recipient, message_id=message.message_id_header)
    except email.ReferenceGone as gone:
        return NotSent(State.CANCELLED, str(gone))
    except (OperationalError, InterfaceError):
        raise  # the database is away, which says nothing about this message
    except Exception as error:  # a template or an e-mail class may raise anything; it concerns this one message alone
        log.exception("could not be built", **message.log_fields())
        reason = f"could not be built from {kind.template}: {type(error).__name__}: {error}"
        return NotSent(State.FAILED, mask(reason.replace("\0", "\ufffd")))
    return Ready(built, recipient.address, content.subject)


def claim(message: Message, ready: Ready, alias: str = transport.PRIMARY) -> bool:
    """Takes the message for this worker, by one conditional UPDATE, and opens an attempt. False if somebody else has it."""
    now = timezone.now()
    with transaction.atomic():
        taken = Message.objects.filter(pk=message.pk, attempts=message.attempts, due_at__lte=now + EARLY).move(
            State.SENDING,
            attempts=F("attempts") + 1,
            handovers=0,
            claimed_until=Now() + options().claim_lease,
            recipient=ready.recipient,
            subject=ready.subject[:SUBJECT_LENGTH],
        )
        if not taken:
            return False
        message.attempts += 1
        message.recipient = ready.recipient
        DeliveryAttempt.objects.create(
            message=message,
            number=message.attempts,
            transport=alias,
            worker=socket.gethostname(),
            started_at=now,
        )
    log.info("attempt started", **message.log_fields(), attempt=message.attempts)
    return True


def _load(message_id: int) -> Message | None:
    return Message.objects.waiting().filter(pk=message_id, due_at__lte=timezone.now() + EARLY).first()


def _settle_stubbornly(message: Message, route: pacing.Route, outcome: Outcome) -> None:
    """Writes the outcome down, asking a database that is away again until the lease has run out.

    What the server said is known to this process alone. If it were lost, the message would count as uncertain, and a
    copy of a mail that was accepted would go out.
    """
    deadline = time.monotonic() + options().claim_lease.total_seconds()
    while True:
        try:
            with transaction.atomic():
                pacing.report(route, outcome)
                settle(message, outcome)
            return
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("outcome not written yet", **message.log_fields(), error=type(error).__name__)
            connection.close()
            time.sleep(PAUSE)


def _settle_without_attempt(message: Message, why: NotSent) -> None:
    """Nothing was transmitted, so there is no attempt to record."""
    if Message.objects.filter(pk=message.pk, attempts=message.attempts).move(why.state, reason=why.reason):
        line = log.error if why.state is State.FAILED else log.info
        line("gave up" if why.state is State.FAILED else str(why.state), **message.log_fields(), reason=why.reason)
