"""Writes down how an attempt ended, and decides what that means for the message."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

import structlog
from django.db import transaction
from django.utils import timezone

from mailer import email, retry, suppression
from mailer.conf import options
from mailer.models import DeliveryAttempt, Message, State
from mailer.models import Outcome as Recorded
from mailer.outcomes import Accepted, Outcome, OutcomeUnknown, PermanentRefusal, TransientRefusal, TransportDown
from mailer.publishing import next_sweep, publish_on_commit

log = structlog.get_logger("mailer.delivery")

RECORDED_AS: dict[type[Outcome], Recorded] = {
    Accepted: Recorded.ACCEPTED,
    TransientRefusal: Recorded.REFUSED_FOR_NOW,
    PermanentRefusal: Recorded.REFUSED_FOR_GOOD,
    TransportDown: Recorded.TRANSPORT_DOWN,
    OutcomeUnknown: Recorded.UNCERTAIN,
}
COUNTED = (Recorded.REFUSED_FOR_NOW, Recorded.UNCERTAIN)
"""Attempts that count against the limit; one that met a server that was down says nothing about the message."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a message after an attempt."""

    state: State
    reason: str
    due_at: datetime | None = None


def settle(message: Message, outcome: Outcome) -> None:
    """Records the outcome of the message's newest attempt (`message.attempts`), and moves the message on.

    Both writes name the attempt. If another process has settled it meanwhile, as it does when a worker outlives its lease,
    the attempt still learns its outcome, and the message stays as it is. Raises UnknownKind, and takes back
    what it wrote.
    """
    now = timezone.now()
    with transaction.atomic():
        attempt = _close_attempt(message, outcome, now)
        verdict = decide(message, outcome, now)
        moved = _apply(message, verdict, now)
        if moved and isinstance(outcome, PermanentRefusal) and outcome.address_unknown:
            suppression.suppress(message, _said(outcome))
    _tell(message, outcome, verdict, ms=attempt.milliseconds, moved=moved)


def decide(message: Message, outcome: Outcome, now: datetime) -> Verdict:
    """What becomes of the message, from the outcome, the kind's own policy, and the attempts so far."""
    match outcome:
        case Accepted():
            return Verdict(State.SENT, "")
        case _ if _was_accepted_before(message):
            return Verdict(State.SENT, f"an earlier attempt was accepted after all; then: {_said(outcome)}")
        case PermanentRefusal():
            return Verdict(State.FAILED, f"refused for good: {_said(outcome)}")
        case OutcomeUnknown() if email.find(message.kind).when_uncertain is email.WhenUncertain.HOLD:
            return Verdict(State.HELD, f"it may have arrived, and a copy would do harm: {outcome.text}")
        case TransportDown():  # no fault of the message's: it is due, and waits for a transport that works
            return Verdict(State.RETRYING, _said(outcome), due_at=now)
        case TransientRefusal() | OutcomeUnknown():
            return _retry(message, outcome, now)
        case _:
            assert_never(outcome)


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


def _close_attempt(message: Message, outcome: Outcome, now: datetime) -> DeliveryAttempt:
    """What a server said overwrites what a sweep assumed, and never the other way round."""
    attempts = message.delivery_attempts.filter(number=message.attempts)
    attempts.filter(outcome__in=(Recorded.PENDING, Recorded.UNCERTAIN)).update(
        outcome=RECORDED_AS[type(outcome)], finished_at=now, code=outcome.code, response=outcome.text
    )
    return attempts.get()


def _apply(message: Message, verdict: Verdict, now: datetime) -> bool:
    changes: dict[str, object] = {"reason": verdict.reason, "claimed_until": None}
    if verdict.due_at is not None:
        changes |= {"due_at": verdict.due_at, "publish_at": next_sweep(verdict.due_at, now)}
    row = Message.objects.filter(pk=message.pk)
    if verdict.state is State.SENT:  # true for ever, so it counts unless a newer attempt is under way
        row = row.exclude(state=State.SENDING, attempts__gt=message.attempts)
    else:
        row = row.filter(attempts=message.attempts)
    if not row.move(verdict.state, **changes):
        return False
    if verdict.due_at is not None:
        message.due_at = verdict.due_at
        publish_on_commit(message)
    return True


def _tell(message: Message, outcome: Outcome, verdict: Verdict, *, ms: int | None, moved: bool) -> None:
    """The operator's lines: what the server said, and what follows from it."""
    line = log.bind(**message.log_fields(), attempt=message.attempts)
    said = {"code": outcome.code, "text": outcome.text, "ms": ms}
    match outcome:
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
