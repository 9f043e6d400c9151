"""Decide what an outcome means for the message: the next state, the reason, and when it is tried again."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from django.db.models import Max
from django.db.models.functions import Now

from mailer import email
from mailer.conf import options
from mailer.delivery import retry
from mailer.delivery.attribution import Attribution, attribute_alone
from mailer.delivery.reserve import QUARANTINE
from mailer.models import REFUSED, TOOK, Message, State
from mailer.models import Outcome as Recorded
from mailer.outcomes import (
    Accepted,
    Interrupted,
    Outcome,
    OutcomeUnknown,
    PermanentRefusal,
    TransientRefusal,
    TransportDown,
    answer_of,
)
from mailer.transports.conversation import means_no_more

COUNTED = (Recorded.REFUSED_FOR_NOW, Recorded.UNCERTAIN)
"""Attempts after which the pause of a message grows. What is the transport's fault says nothing about the message."""
DIED = "the worker stopped responding while it sent the message"
NONE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The next state of a message after an attempt."""

    state: State
    reason: str
    pause: timedelta | None = None
    """The pause until the next attempt, if there is one."""
    publish: bool = True
    """Whether to publish a task for the next attempt; otherwise the sweep does it."""


def decide(message: Message, outcome: Outcome, found: Attribution) -> Verdict:
    """Decide from the outcome, whose fault it is, the kind's policy, and the attempts so far."""
    answer = answer_of(outcome)
    match outcome:
        case Accepted() if for_now := list(filter(may_pass, outcome.refused.values())):
            return _send_to_the_rest(message, min(for_now, key=lambda refusal: refusal.code))
        case Accepted():
            return _accepted(message, "")
        case _ if _was_accepted_before(message):
            return _accepted(message, f"an earlier attempt was accepted; answer to the last one: {answer}")
        case OutcomeUnknown():
            return _uncertain(message, outcome)
        case Interrupted():
            return Verdict(State.RETRYING, outcome.text, pause=NONE, publish=False)
        case _ if found.is_transports:  # it stays due, and waits for the transport
            return Verdict(State.RETRYING, answer, pause=NONE, publish=False)
        case PermanentRefusal() if found.is_final:
            return Verdict(State.FAILED, f"refused for good: {answer}")
        case TransientRefusal() | PermanentRefusal() | TransportDown():
            return _retry(message, answer, retry_after=getattr(outcome, "retry_after", None), patience=found.patience)
        case _:
            assert_never(outcome)


def _uncertain(message: Message, outcome: OutcomeUnknown) -> Verdict:
    if email.find(message.kind).when_uncertain is email.WhenUncertain.HOLD:
        return Verdict(State.HELD, f"it may have arrived, and a copy would do harm: {outcome.text}")
    last = message.delivery_attempts.filter(number__gt=message.counted_after).order_by("-number")[:QUARANTINE]
    if [attempt.response for attempt in last] == [DIED] * QUARANTINE:
        return Verdict(State.HELD, f"quarantined: {QUARANTINE} workers stopped while they sent it")
    return _retry(message, outcome.text)


def _send_to_the_rest(message: Message, refusal: TransientRefusal | PermanentRefusal) -> Verdict:
    """Send on at once if the server takes so many recipients at a time (RFC 5321, 4.5.3.1.10); otherwise after a pause."""
    if isinstance(refusal, PermanentRefusal):
        return _retry(message, answer_of(refusal), patience=attribute_alone(refusal).patience)
    if means_no_more(refusal):
        return Verdict(State.RETRYING, answer_of(refusal), pause=NONE)
    return _retry(message, answer_of(refusal), retry_after=refusal.retry_after)


def may_pass(refusal: TransientRefusal | PermanentRefusal) -> bool:
    """Return whether a recipient who was refused, while others were accepted, is worth another try: a mailbox may be full."""
    return isinstance(refusal, TransientRefusal) or bool(attribute_alone(refusal).patience)


def _accepted(message: Message, reason: str) -> Verdict:
    """Settle a message that needs no further attempt: SENT if every recipient was accepted, else FAILED."""
    if refused := list(message.answers.values()).count(REFUSED):
        total = len(message.answers)
        return Verdict(State.FAILED, f"refused for good for {refused} of {total} recipients, accepted for the rest")
    return Verdict(State.SENT, reason)


def _was_accepted_before(message: Message) -> bool:
    """Return whether the server accepted an earlier attempt, whose answer arrived late."""
    return message.delivery_attempts.filter(number__gt=message.counted_after, outcome=Recorded.ACCEPTED).exists()


def _retry(
    message: Message, answer: str, *, retry_after: timedelta | None = None, patience: timedelta | None = None
) -> Verdict:
    now, began_at = _times(message)
    since = message.delivery_attempts.filter(number__gt=message.counted_after)
    progress = since.filter(outcome__in=TOOK).aggregate(last=Max("number"))["last"] or 0
    decision = retry.decide(
        now=now,
        number=max(since.filter(number__gt=progress, outcome__in=COUNTED).count(), 1),
        policy=retry.Policy(options().backoff_base, options().backoff_max),
        began_at=began_at,
        retry_after=retry_after,
        expires_at=message.expires_at,
        patience=patience,
    )
    if isinstance(decision, retry.GiveUp):
        return Verdict(State.FAILED, f"{decision.reason}; last answer: {answer}")
    return Verdict(State.RETRYING, answer, pause=decision - now)


def _times(message: Message) -> tuple[datetime, datetime]:
    """Return the database's time, and when the message was first due."""
    return Message.objects.annotate(now=Now()).values_list("now", "first_due_at").get(pk=message.pk)
