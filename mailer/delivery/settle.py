"""Record how an attempt ended, and decide what that means for the message."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
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
"""Attempts that count against the limit. An attempt while the server was down says nothing about the message."""
RECORDED: dict[type[Outcome], Recorded] = {
    Accepted: Recorded.ACCEPTED,
    TransientRefusal: Recorded.REFUSED_FOR_NOW,
    PermanentRefusal: Recorded.REFUSED_FOR_GOOD,
    TransportDown: Recorded.TRANSPORT_DOWN,
    OutcomeUnknown: Recorded.UNCERTAIN,
}
PAUSE = 0.5
"""Seconds between two tries to record an outcome."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The next state of a message after an attempt."""

    state: State
    reason: str
    due_at: datetime | None = None
    publish: bool = True
    """Whether to publish a task now; otherwise the sweep does it."""


def settle(message: Message, outcome: Outcome, *, ms: int | None = None, notify: bool = True) -> None:
    """Record the outcome of the message's newest attempt (`message.attempts`), and move the message on.

    Both writes name the attempt. If this worker outlived its lease and another process settled the message, only the attempt
    is updated. `ms` is the duration of the conversation. `notify` calls the receivers of message_settled.

    Raises UnknownKind, and ConnectionLost if `notify`; both undo the writes.
    """
    now = timezone.now()
    with transaction.atomic(savepoint=False):  # the caller may have a transaction; an exception here ends it too
        _close_attempt(message, outcome, now)
        _note_answers(message, outcome)
        verdict = decide(message, outcome, now)
        moved = _apply(message, verdict, now)
        if moved and notify:
            signals.send_settled(message)
        _suppress_unknown_addresses(message, outcome)
    _log(message, outcome, verdict, ms=ms, moved=moved)


def settle_persistently(message: Message, transport: Transport, outcome: Outcome, *, ms: int) -> None:
    """Record the outcome, and while the database is away, try again until the lease has run out.

    Only this process knows the server's answer. Without it the message would count as uncertain, and an accepted mail would
    be sent twice.
    """

    def record(notify: bool) -> None:
        circuit.report(transport, outcome)
        settle(message, outcome, ms=ms, notify=notify)

    deadline = time.monotonic() + options().claim_lease.total_seconds()
    while True:
        try:
            return signals.with_receivers(message, record)
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("outcome not recorded yet; trying again", **message.log_fields(), error=type(error).__name__)
            connection.close()
            time.sleep(PAUSE)


def settle_unsent(message: Message, why: Unsent) -> None:
    """Settle a message that was not transmitted. It has no attempt to record."""
    if signals.with_receivers(message, partial(_move_unsent, message, why)):
        line = log.error if why.state is State.FAILED else log.info
        line("gave up" if why.state is State.FAILED else str(why.state), **message.log_fields(), reason=why.reason)


def _move_unsent(message: Message, why: Unsent, notify: bool) -> bool:
    row = Message.objects.filter(pk=message.pk, attempts=message.attempts)
    moved = row.move(why.state, reason=replace_unstorable(why.reason)) == 1
    if moved and notify:
        signals.send_settled(message)
    return moved


def decide(message: Message, outcome: Outcome, now: datetime) -> Verdict:
    """Decide from the outcome, the kind's policy, and the attempts so far."""
    match outcome:
        case Accepted() if for_now := [r for r in outcome.refused.values() if isinstance(r, TransientRefusal)]:
            return _retry(message, for_now[0], now)
        case Accepted():
            return _accepted(message, "")
        case _ if _was_accepted_before(message):
            return _accepted(message, f"an earlier attempt was accepted; answer to the last one: {_answer_of(outcome)}")
        case PermanentRefusal():
            return Verdict(State.FAILED, f"refused for good: {_answer_of(outcome)}")
        case OutcomeUnknown() if email.find(message.kind).when_uncertain is email.WhenUncertain.HOLD:
            return Verdict(State.HELD, f"it may have arrived, and a copy would do harm: {outcome.text}")
        case TransportDown():  # not the message's fault: it stays due, and waits for a working transport
            is_route_open = circuit.find_transport(message.transport, circuit.pauses()) is not None
            return Verdict(State.RETRYING, _answer_of(outcome), due_at=now, publish=is_route_open)
        case TransientRefusal() | OutcomeUnknown():
            return _retry(message, outcome, now)
        case _:
            assert_never(outcome)


def _accepted(message: Message, reason: str) -> Verdict:
    """Settle a message that needs no further attempt: SENT if every recipient was accepted, else FAILED."""
    if refused := list(message.answers.values()).count(REFUSED):
        total = len(message.answers)
        return Verdict(State.FAILED, f"refused for good for {refused} of {total} recipients, accepted for the rest")
    return Verdict(State.SENT, reason)


def _was_accepted_before(message: Message) -> bool:
    """Return whether the server accepted an earlier attempt, whose answer arrived late."""
    return message.delivery_attempts.filter(number__gt=message.counted_after, outcome=Recorded.ACCEPTED).exists()


def _retry(message: Message, outcome: TransientRefusal | OutcomeUnknown, now: datetime) -> Verdict:
    counted = message.delivery_attempts.filter(number__gt=message.counted_after, outcome__in=COUNTED).count()
    decision = retry.decide(
        now=now,
        number=message.attempts - message.counted_after,
        counted=counted,
        policy=retry.Policy(options().max_attempts, options().backoff_base, options().backoff_max),
        retry_after=outcome.retry_after if isinstance(outcome, TransientRefusal) else None,
        expires_at=message.expires_at,
    )
    if isinstance(decision, retry.GiveUp):
        return Verdict(State.FAILED, f"{decision.reason}; last answer: {_answer_of(outcome)}")
    return Verdict(State.RETRYING, _answer_of(outcome), due_at=decision)


def _answer_of(outcome: Outcome) -> str:
    return f"{outcome.code} {outcome.text}".strip()


def _close_attempt(message: Message, outcome: Outcome, now: datetime) -> None:
    """Close the attempt. A server's answer overwrites what a sweep assumed, never the reverse."""
    recorded = RECORDED[type(outcome)]
    if recorded is Recorded.ACCEPTED and _refused(outcome):
        recorded = Recorded.PARTLY_ACCEPTED
    others = [f"not for {mask(address)}: {_answer_of(refusal)}" for address, refusal in _refused(outcome).items()]
    unanswered = (Recorded.PENDING, Recorded.UNCERTAIN)
    message.delivery_attempts.filter(number=message.attempts, outcome__in=unanswered).update(
        outcome=recorded, finished_at=now, code=outcome.code, response="; ".join([outcome.text, *others])
    )


def _refused(outcome: Outcome) -> Mapping[str, TransientRefusal | PermanentRefusal]:
    return getattr(outcome, "refused", {})


def _note_answers(message: Message, outcome: Outcome) -> None:
    """Store the answers for several recipients, so that each gets the message once.

    Under a lock: the answer to an earlier attempt may arrive at the same moment.
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
    """Suppress addresses that the server does not know.

    The refusal may be about another address: a test system redirects mail, and a recipient who was answered in an earlier
    attempt is left out of this one.
    """
    if isinstance(outcome, PermanentRefusal) and outcome.address_unknown and not outcome.refused:
        was_answered = addresses.as_transmitted(message.recipient) in message.answers
        if staging.reaches(message.recipient) and not was_answered:
            suppression.suppress(message.recipient, _answer_of(outcome), message)
    for address, refusal in _refused(outcome).items():
        if isinstance(refusal, PermanentRefusal) and refusal.address_unknown and staging.reaches(address):
            suppression.suppress(address, _answer_of(refusal), message)


def _apply(message: Message, verdict: Verdict, now: datetime) -> bool:
    changes: dict[str, object] = {"reason": verdict.reason, "claimed_until": None}
    if verdict.due_at is not None:
        publish_at = next_sweep(verdict.due_at, now) if verdict.publish else verdict.due_at
        changes |= {"due_at": verdict.due_at, "publish_at": publish_at}
    row = Message.objects.filter(pk=message.pk)
    if verdict.state is State.SENT:  # final, so it counts unless a newer attempt is under way
        row = row.exclude(state=State.SENDING, attempts__gt=message.attempts)
    else:
        row = row.filter(attempts=message.attempts)
    if not row.move(verdict.state, **changes):
        return False
    if verdict.due_at is not None and verdict.publish:
        message.due_at = verdict.due_at
        publish_on_commit(message)
    return True


def _log(message: Message, outcome: Outcome, verdict: Verdict, *, ms: int | None, moved: bool) -> None:
    """Log what the server said, and what follows from it."""
    line = log.bind(**message.log_fields(), attempt=message.attempts)
    said = {"code": outcome.code, "text": outcome.text, "ms": ms}
    if isinstance(outcome, Accepted) and outcome.refused:
        line.warning("accepted for some recipients", refused=len(outcome.refused), **said)
    elif isinstance(outcome, Accepted):
        line.info("accepted", **said)
    elif isinstance(outcome, TransportDown) and outcome.misconfigured:
        line.error("refused; a person must correct the transport's configuration", **said)
    else:
        line.warning("uncertain" if isinstance(outcome, OutcomeUnknown) else "refused", **said)
    if not moved:
        line.warning("outcome came after the lease ended; only the attempt records it")
    elif not verdict.publish:
        line.info("waits until the transport works again")
    elif verdict.due_at is not None:
        seconds = round((verdict.due_at - timezone.now()).total_seconds())
        line.info("retry at", due_at=verdict.due_at.isoformat(timespec="seconds"), seconds=seconds)
    elif verdict.state is State.HELD:
        line.warning("held until a person decides", reason=verdict.reason)
    elif verdict.state is State.FAILED:
        line.error("gave up", reason=verdict.reason)
