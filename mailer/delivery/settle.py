"""Writes down how an attempt ended, and decides what that means for the message."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

import structlog
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from mailer import addresses, email, signals
from mailer.conf import options
from mailer.delivery import circuit, retry
from mailer.delivery.broker import next_sweep, publish_on_commit
from mailer.delivery.steps import Transport, Unsent
from mailer.models import ACCEPTED, REFUSED, Message, State
from mailer.models import Outcome as Recorded
from mailer.outcomes import Accepted, Outcome, OutcomeUnknown, PermanentRefusal, TransientRefusal, TransportDown
from mailer.recipients import suppression
from mailer.text import mask, replace_unstorable
from mailer.transports import staging

log = structlog.get_logger(__name__)

COUNTED = (Recorded.REFUSED_FOR_NOW, Recorded.PARTLY_ACCEPTED, Recorded.UNCERTAIN)
"""Attempts that count against the limit; one that met a server that was down says nothing about the message."""


PAUSE = 0.5
"""Seconds between two tries to write an outcome down."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a message after an attempt."""

    state: State
    reason: str
    due_at: datetime | None = None
    publish: bool = True
    """Whether a worker is to be woken; else the sweep does it in its time."""


def settle(message: Message, outcome: Outcome, *, ms: int | None = None, observed: bool = True) -> None:
    """Records the outcome of the message's newest attempt (`message.attempts`), and moves the message on.

    Both writes name the attempt. If another process has settled it meanwhile, as it does when a worker outlives its lease,
    the attempt still learns its outcome, and the message stays as it is. `ms` is how long the conversation took. Raises
    UnknownKind, and takes back what it wrote; so does ConnectionLost, unless it is not `observed`.
    """
    now = timezone.now()
    with transaction.atomic(savepoint=False):  # the caller may have a transaction, and nobody catches what this raises
        _close_attempt(message, outcome, now)
        _note_answers(message, outcome)
        verdict = decide(message, outcome, now)
        moved = _apply(message, verdict, now)
        if moved and observed:
            signals.send_settled(message)
        _suppress_unknown_addresses(message, outcome)
    _tell(message, outcome, verdict, ms=ms, moved=moved)


def settle_persistently(message: Message, transport: Transport, outcome: Outcome, *, ms: int) -> None:
    """Writes the outcome down, asking a database that is away again until the lease has run out.

    What the server said is known to this process alone. If it were lost, the message would count as uncertain, and a
    copy of a mail that was accepted would go out.
    """
    deadline = time.monotonic() + options().claim_lease.total_seconds()
    observed = True
    while True:
        try:
            with transaction.atomic():
                circuit.report(transport, outcome)
                settle(message, outcome, ms=ms, observed=observed)
            return
        except signals.ConnectionLost:
            signals.log_skipped(message)
            observed = False
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("outcome not written yet", **message.log_fields(), error=type(error).__name__)
            connection.close()
            time.sleep(PAUSE)


def settle_unsent(message: Message, why: Unsent) -> None:
    """Nothing was transmitted, so there is no attempt to record."""
    try:
        moved = _move_unsent(message, why, observed=True)
    except signals.ConnectionLost:
        signals.log_skipped(message)
        moved = _move_unsent(message, why, observed=False)
    if moved:
        line = log.error if why.state is State.FAILED else log.info
        line("gave up" if why.state is State.FAILED else str(why.state), **message.log_fields(), reason=why.reason)


@transaction.atomic
def _move_unsent(message: Message, why: Unsent, *, observed: bool) -> bool:
    row = Message.objects.filter(pk=message.pk, attempts=message.attempts)
    moved = row.move(why.state, reason=replace_unstorable(why.reason)) == 1
    if moved and observed:
        signals.send_settled(message)
    return moved


def decide(message: Message, outcome: Outcome, now: datetime) -> Verdict:
    """What becomes of the message, from the outcome, the kind's own policy, and the attempts so far."""
    match outcome:
        case Accepted() if for_now := [r for r in outcome.refused.values() if isinstance(r, TransientRefusal)]:
            return _retry(message, for_now[0], now)
        case Accepted():
            return _accepted(message, "")
        case _ if _was_accepted_before(message):
            return _accepted(message, f"an earlier attempt was accepted after all; then: {_said(outcome)}")
        case PermanentRefusal():
            return Verdict(State.FAILED, f"refused for good: {_said(outcome)}")
        case OutcomeUnknown() if email.find(message.kind).when_uncertain is email.WhenUncertain.HOLD:
            return Verdict(State.HELD, f"it may have arrived, and a copy would do harm: {outcome.text}")
        case TransportDown():  # no fault of the message's: it is due, and waits for a transport that works
            return Verdict(State.RETRYING, _said(outcome), due_at=now, publish=_is_way_open(message))
        case TransientRefusal() | OutcomeUnknown():
            return _retry(message, outcome, now)
        case _:
            assert_never(outcome)


def _accepted(message: Message, reason: str) -> Verdict:
    """No server will hear of this message again, but it is only sent if everybody got it."""
    if refused := [address for address, answer in message.answers.items() if answer == REFUSED]:
        everybody = len(message.answers)
        return Verdict(
            State.FAILED, f"refused for good for {len(refused)} of {everybody} recipients, accepted for the rest"
        )
    return Verdict(State.SENT, reason)


def _is_way_open(message: Message) -> bool:
    return isinstance(circuit.find_transport(message.transport), Transport)


def _was_accepted_before(message: Message) -> bool:
    """Whether the answer to an earlier attempt, which had been given up for lost, came in meanwhile."""
    return message.delivery_attempts.filter(number__gt=message.counted_after, outcome=Recorded.ACCEPTED).exists()


def _retry(message: Message, outcome: TransientRefusal | OutcomeUnknown, now: datetime) -> Verdict:
    counted = message.delivery_attempts.filter(number__gt=message.counted_after, outcome__in=COUNTED).count()
    decision = retry.decide(
        now=now,
        number=message.attempts - message.counted_after,
        spent=counted,
        policy=retry.Policy(options().max_attempts, options().backoff_base, options().backoff_max),
        retry_after=outcome.retry_after if isinstance(outcome, TransientRefusal) else None,
        expires_at=message.expires_at,
    )
    if isinstance(decision, retry.GiveUp):
        return Verdict(State.FAILED, f"{decision.reason}; last answer: {_said(outcome)}")
    return Verdict(State.RETRYING, _said(outcome), due_at=decision.at)


def _said(outcome: Outcome) -> str:
    return f"{outcome.code} {outcome.text}".strip()


def _close_attempt(message: Message, outcome: Outcome, now: datetime) -> None:
    """What a server said overwrites what a sweep assumed, and never the other way round."""
    open_ones = (Recorded.PENDING, Recorded.UNCERTAIN)
    message.delivery_attempts.filter(number=message.attempts, outcome__in=open_ones).update(
        outcome=_recorded_as(outcome), finished_at=now, code=outcome.code, response=_whole_response(outcome)
    )


def _recorded_as(outcome: Outcome) -> Recorded:
    match outcome:
        case Accepted():
            return Recorded.PARTLY_ACCEPTED if outcome.refused else Recorded.ACCEPTED
        case TransientRefusal():
            return Recorded.REFUSED_FOR_NOW
        case PermanentRefusal():
            return Recorded.REFUSED_FOR_GOOD
        case TransportDown():
            return Recorded.TRANSPORT_DOWN
        case OutcomeUnknown():
            return Recorded.UNCERTAIN
        case _:
            assert_never(outcome)


def _whole_response(outcome: Outcome) -> str:
    return "; ".join(
        [outcome.text, *(f"not for {mask(a)}: {_said(refusal)}" for a, refusal in _refused(outcome).items())]
    )


def _refused(outcome: Outcome) -> Mapping[str, TransientRefusal | PermanentRefusal]:
    return getattr(outcome, "refused", {})


def _note_answers(message: Message, outcome: Outcome) -> None:
    """Remembers who of several recipients has had an answer, so that nobody gets the message twice and nobody is forgotten.

    Under a lock: the answer to an earlier attempt may come in at the same moment.
    """
    if not _refused(outcome) and not message.answers:
        return
    answers = {a: REFUSED for a, refusal in _refused(outcome).items() if isinstance(refusal, PermanentRefusal)}
    if isinstance(outcome, Accepted):
        answers |= dict.fromkeys(outcome.recipients, ACCEPTED)
    row = Message.objects.select_for_update().get(pk=message.pk)
    message.answers = row.answers | answers
    Message.objects.filter(pk=message.pk).update(answers=message.answers)


def _suppress_unknown_addresses(message: Message, outcome: Outcome) -> None:
    """Never one that the server was not asked about: on a test system another one stood in for it, and of several
    recipients it may have had its answer in an earlier attempt."""
    if isinstance(outcome, PermanentRefusal) and outcome.address_unknown and not outcome.refused:
        had_its_answer = addresses.as_transmitted(message.recipient) in message.answers
        if staging.reaches(message.recipient) and not had_its_answer:
            suppression.suppress(message.recipient, _said(outcome), message)
    for address, refusal in _refused(outcome).items():
        if isinstance(refusal, PermanentRefusal) and refusal.address_unknown and staging.reaches(address):
            suppression.suppress(address, _said(refusal), message)


def _apply(message: Message, verdict: Verdict, now: datetime) -> bool:
    changes: dict[str, object] = {"reason": verdict.reason, "claimed_until": None}
    if verdict.due_at is not None:
        publish_at = next_sweep(verdict.due_at, now) if verdict.publish else verdict.due_at
        changes |= {"due_at": verdict.due_at, "publish_at": publish_at}
    row = Message.objects.filter(pk=message.pk)
    if verdict.state is State.SENT:  # true for ever, so it counts unless a newer attempt is under way
        row = row.exclude(state=State.SENDING, attempts__gt=message.attempts)
    else:
        row = row.filter(attempts=message.attempts)
    if not row.move(verdict.state, **changes):
        return False
    if verdict.due_at is not None and verdict.publish:
        message.due_at = verdict.due_at
        publish_on_commit(message)
    return True


def _tell(message: Message, outcome: Outcome, verdict: Verdict, *, ms: int | None, moved: bool) -> None:
    """The operator's lines: what the server said, and what follows from it."""
    line = log.bind(**message.log_fields(), attempt=message.attempts)
    said = {"code": outcome.code, "text": outcome.text, "ms": ms}
    match outcome:
        case Accepted() if outcome.refused:
            line.warning("accepted for some recipients", refused=len(outcome.refused), **said)
        case Accepted():
            line.info("accepted", **said)
        case OutcomeUnknown():
            line.warning("uncertain", **said)
        case TransportDown(misconfigured=True):
            line.error("refused: the transport's configuration needs a person", **said)
        case _:
            line.warning("refused", **said)
    if not moved:
        line.warning("outcome came after the lease; the message was settled without it")
    elif not verdict.publish:
        line.info("waits for the transport")
    elif verdict.due_at is not None:
        line.info(
            "retry at", due_at=verdict.due_at.isoformat(timespec="seconds"), seconds=_seconds_until(verdict.due_at)
        )
    elif verdict.state is State.HELD:
        line.warning("held for a person", reason=verdict.reason)
    elif verdict.state is State.FAILED:
        line.error("gave up", reason=verdict.reason)


def _seconds_until(moment: datetime) -> int:
    return round((moment - timezone.now()) / timedelta(seconds=1))
