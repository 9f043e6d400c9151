"""The path of one message through a worker: load, ask whether it is still wanted, build, claim, transmit, settle."""

import time
from dataclasses import dataclass
from datetime import timedelta

import structlog
from django.core.mail import EmailMessage
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from mailer import claiming, email, interception, observers, pacing, suppression, transport
from mailer.attachments import StorageAway
from mailer.building import build
from mailer.conf import options
from mailer.masking import mask
from mailer.models import Message, Queue, State
from mailer.outcomes import Outcome
from mailer.settlement import settle
from mailer.storable import storable

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
    stream: str = ""
    """The name of the stream that it belongs to, whose leavers do not get it."""
    leave_out: frozenset[str] = frozenset()
    """Of several recipients, those who had their answer in an earlier attempt, and those who are suppressed."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """A message that will not be transmitted, and why."""

    state: State
    reason: str


def deliver(message_id: int, *, longest_wait: timedelta | None = None) -> None:
    """Delivers one message if it is due and nobody else is at it; whatever becomes of it stands in its row afterwards.

    Where a rate is configured it waits for its turn, and leaves the message to the sweep if that would be longer than
    `longest_wait` (unless it is given, as long as befits its queue).

    Everything slow comes before the claim, and no transaction is open while the network is used. Raises OperationalError
    or InterfaceError when the database is away.
    """
    message = _load(message_id)
    if message is None:
        return
    try:
        _deliver(message, longest_wait or pacing.LONGEST_WAIT[Queue(message.queue)])
    except (email.UnknownKind, pacing.NoSuchTransport) as error:
        log.warning("left to a newer worker", **message.log_fields(), reason=str(error))
    except StorageAway as error:  # the sweep hands it over again, after growing pauses
        log.warning("not built yet", **message.log_fields(), reason=str(error))


def _deliver(message: Message, longest_wait: timedelta) -> None:
    if late := _expired(message):
        _settle_without_attempt(message, late)
        return
    route = _route(message)
    if isinstance(route, pacing.Paused):
        pacing.postpone(message)
        return
    wait = pacing.book_slot(route.alias, longest_wait)
    if wait is None:
        pacing.postpone(message)
        return
    time.sleep(wait)
    prepared = prepare(message)
    if isinstance(prepared, NotSent):
        _settle_without_attempt(message, prepared)
    elif not pacing.enter(route):
        pacing.postpone(message)  # somebody else probes the transport
    elif claim(message, prepared, route.alias):
        began = time.monotonic()
        outcome = transport.transmit(prepared.mail, route.alias, leave_out=prepared.leave_out)
        _settle_stubbornly(message, route, outcome, ms=round((time.monotonic() - began) * 1000))
    else:
        pacing.leave(route)
        _not_claimed(message, prepared)


def _not_claimed(message: Message, prepared: Ready) -> None:
    """Somebody else has it, or an address was suppressed since it was built."""
    reason = suppression.reason_against(prepared.recipient, prepared.stream)
    if reason and len(prepared.mail.recipients()) > 1:
        pacing.postpone(message)  # the others are to get it: the next worker leaves this one out
    elif reason:
        _settle_without_attempt(message, NotSent(State.SUPPRESSED, f"the address is suppressed: {reason}"))


def prepare(message: Message) -> Ready | NotSent:
    """Builds the mail from its row, or says why there will be none. Raises UnknownKind and StorageAway."""
    if late := _expired(message):
        return late
    kind = email.find(message.kind)
    try:
        mail = kind.load(message.arguments)
        if not mail.is_wanted():
            return NotSent(State.CANCELLED, "no longer wanted when it was due")
        return _ready(message, build(mail, message.message_id_header), mail.stream.name if mail.stream else "")
    except email.ReferenceGone as gone:
        return NotSent(State.CANCELLED, str(gone))
    except (OperationalError, InterfaceError, email.UnknownKind, StorageAway):
        raise  # the database or a storage is away, which says nothing about this message
    except Exception as error:  # a template or an e-mail class may raise anything; it concerns this one message alone
        log.exception("could not be built", **message.log_fields())
        reason = f"could not be built: {type(error).__name__}: {error}"
        return NotSent(State.FAILED, mask(reason))


def _expired(message: Message) -> NotSent | None:
    if message.expires_at and message.expires_at <= timezone.now():
        return NotSent(State.EXPIRED, "its deadline passed before it could be sent")
    return None


def _ready(message: Message, built: EmailMessage, stream: str) -> Ready | NotSent:
    """Who gets it, of those for whom it was built; the row and the suppressions go on being about these, also on a test
    system where others get it."""
    recipient, *others = everybody = [transport.bare_address(entry) for entry in built.recipients()]
    try:
        interception.intercept(built)
    except interception.HeldBack as reason:
        return NotSent(State.SUPPRESSED, str(reason))
    suppressed = suppression.suppressed(everybody if others else ())  # the claim itself looks at the first one
    leave_out = frozenset({*message.answers, *map(transport.envelope_form, suppressed)})
    if all(transport.envelope_form(entry) in leave_out for entry in built.recipients()):
        return NotSent(State.SUPPRESSED, "every recipient who had no answer yet is suppressed")
    return Ready(built, recipient, str(built.subject), stream, leave_out)


def claim(message: Message, ready: Ready, alias: str = transport.PRIMARY) -> bool:
    """Takes the message for this worker. False if somebody else has it, or if its recipient is suppressed."""
    claimed = claiming.claim(
        message,
        recipient=ready.recipient,
        may_be_suppressed=transport.envelope_form(ready.recipient) in ready.leave_out,
        stream=ready.stream,
        subject=storable(ready.subject)[:SUBJECT_LENGTH],
        transport=alias,
        due_by=timezone.now() + EARLY,
    )
    if claimed:
        log.info("attempt started", **message.log_fields(), attempt=message.attempts)
    return claimed


def _load(message_id: int) -> Message | None:
    due = Message.objects.waiting().filter(pk=message_id, due_at__lte=timezone.now() + EARLY)
    return due.annotate(is_any_paused=pacing.is_any_paused()).first()


def _route(message: Message) -> pacing.Route | pacing.Paused:
    is_any_paused: bool = message.is_any_paused  # type: ignore[attr-defined]
    return pacing.find_route(message.transport) if is_any_paused else pacing.first_route(message.transport)


def _settle_stubbornly(message: Message, route: pacing.Route, outcome: Outcome, *, ms: int) -> None:
    """Writes the outcome down, asking a database that is away again until the lease has run out.

    What the server said is known to this process alone. If it were lost, the message would count as uncertain, and a
    copy of a mail that was accepted would go out.
    """
    deadline = time.monotonic() + options().claim_lease.total_seconds()
    observed = True
    while True:
        try:
            with transaction.atomic():
                pacing.report(route, outcome)
                settle(message, outcome, ms=ms, observed=observed)
            return
        except observers.ConnectionLost:
            observers.passed_over(message)
            observed = False
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("outcome not written yet", **message.log_fields(), error=type(error).__name__)
            connection.close()
            time.sleep(PAUSE)


def _settle_without_attempt(message: Message, why: NotSent) -> None:
    """Nothing was transmitted, so there is no attempt to record."""
    try:
        moved = _move(message, why, observed=True)
    except observers.ConnectionLost:
        observers.passed_over(message)
        moved = _move(message, why, observed=False)
    if moved:
        line = log.error if why.state is State.FAILED else log.info
        line("gave up" if why.state is State.FAILED else str(why.state), **message.log_fields(), reason=why.reason)


@transaction.atomic
def _move(message: Message, why: NotSent, *, observed: bool) -> bool:
    row = Message.objects.filter(pk=message.pk, attempts=message.attempts)
    moved = row.move(why.state, reason=storable(why.reason)) == 1
    if moved and observed:
        observers.tell(message)
    return moved
