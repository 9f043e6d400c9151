"""Record how an attempt ended, and move its message on. Every write names the attempt."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog
from django.db import Error, connection, transaction
from django.db.models.functions import Now

from mailer import addresses, signals
from mailer.database import hot_cursor, is_away
from mailer.delivery.attribution import MESSAGE, Attribution, Fault, attribute_alone
from mailer.delivery.broker import publish_on_commit
from mailer.delivery.circuit import Transport
from mailer.delivery.judge import judge
from mailer.delivery.steps import EXPIRED, Ready, Trouble, Unsent
from mailer.delivery.verdict import DIED, Verdict, decide, may_pass
from mailer.models import ACCEPTED, REFUSED, SETTLED, SOURCES, DeliveryAttempt, Message, State
from mailer.models import Outcome as Recorded
from mailer.outcomes import (
    Accepted,
    Interrupted,
    Outcome,
    OutcomeUnknown,
    PermanentRefusal,
    Phase,
    TransientRefusal,
    TransportDown,
    answer_of,
)
from mailer.recipients import suppression
from mailer.text import mask, replace_unstorable
from mailer.transports import staging

log = structlog.get_logger(__name__)

PAUSE = 0.5
"""Seconds between two tries to record an outcome."""
LONGEST_OUTAGE = 3600.0
"""Seconds that an outcome is kept while the database is away."""
UNANSWERED = (str(Recorded.PENDING), str(Recorded.UNCERTAIN))
"""A server's answer overwrites these."""

SOURCE = "the answer to an attempt"
"""Of a suppression."""

SENT = Verdict(State.SENT, "")

# What `_close_attempt` and `_apply` do for an acceptance by all. It counts unless a newer attempt is under way.
ACCEPT = f"""
WITH attempt AS (
    UPDATE {DeliveryAttempt._meta.db_table}
    SET outcome = '{Recorded.ACCEPTED}', finished_at = statement_timestamp(), phase = '{Phase.DOT}', code = %(code)s,
        response = %(response)s
    WHERE message_id = %(id)s AND number = %(number)s AND outcome IN {UNANSWERED!r}
)
UPDATE {Message._meta.db_table}
SET state = '{State.SENT}', reason = '', worker = NULL, claimed_until = NULL, settled_at = statement_timestamp(),
    notify_at = statement_timestamp() + %(notify_after)s
WHERE id = %(id)s AND state IN {tuple(map(str, SOURCES[State.SENT]))!r}
  AND NOT (state = '{State.SENDING}' AND attempts > %(number)s)
"""  # noqa: S608 - the names are our own models'


def settle_persistently(message: Message, transport: Transport, outcome: Outcome, *, ms: int) -> str:
    """Record the outcome, and try again while the database is away. Return a sentence about it.

    Only this process knows the server's answer. Without it the message would count as uncertain, and an accepted mail would
    be sent twice. If it cannot be recorded for another reason, which would be there the next time too, a person decides.
    """
    outcome = _for_all_recipients(outcome)
    deadline = time.monotonic() + LONGEST_OUTAGE
    while True:
        try:
            return settle(message, outcome, found=judge(message, transport, outcome), ms=ms)
        except Error as error:
            if not is_away(error):
                return _hold(message, outcome, error)
            if time.monotonic() > deadline:
                raise
            log.warning("outcome not recorded yet; trying again", **message.log_fields(), error=type(error).__name__)
            connection.close()
            time.sleep(PAUSE)
        except Exception as error:
            return _hold(message, outcome, error)


def _hold(message: Message, outcome: Outcome, error: Exception) -> str:
    log.error("outcome not recorded", **message.log_fields(), attempt=message.attempts, exc_info=error)
    reason = f"{type(error).__name__} when the server's answer was recorded, which was: {answer_of(outcome)}"
    Message.objects.filter(pk=message.pk, attempts=message.attempts).move(State.HELD, reason=reason)
    return str(State.HELD)


def _for_all_recipients(outcome: Outcome) -> Outcome:
    """If all recipients were refused for good, let a refusal stand for all that is worth another try, if there is one."""
    if isinstance(outcome, PermanentRefusal):
        for refusal in outcome.refused.values():
            if not attribute_alone(refusal).is_final:
                return replace(refusal, refused=outcome.refused)
    return outcome


def settle(message: Message, outcome: Outcome, *, found: Attribution = MESSAGE, ms: int | None = None) -> str:
    """Record the outcome of the message's newest attempt (`message.attempts`), and move the message on. Return a sentence.

    Both writes name the attempt. If this worker was silent and another process settled the message, only the attempt is
    updated. `ms` is the duration of the conversation. Raises UnknownKind, which undoes the writes, and the database's errors.
    """
    if isinstance(outcome, Accepted) and not outcome.refused and not message.answers:
        verdict, moved = SENT, _settle_accepted(message, outcome)
    else:
        with transaction.atomic():
            _close_attempt(message, outcome, found)
            _note_answers(message, outcome, found)
            verdict = decide(message, outcome, found)
            moved = _apply(message, verdict)
            _suppress_unknown_addresses(message, outcome)
    _log(message, outcome, verdict, ms=ms, moved=moved)
    return f"{verdict.state} {outcome.code}".strip()


def _settle_accepted(message: Message, outcome: Accepted) -> bool:
    """Record that the server accepted the message for all, which is final. Most mails end so, hence it is one statement."""
    has_receivers = signals.has_receivers(message.kind)
    values: dict[str, Any] = {
        "id": message.pk,
        "number": message.attempts,
        "code": outcome.code,
        "response": outcome.text,
        "notify_after": signals.PAUSE if has_receivers else None,
    }
    with hot_cursor() as cursor:
        cursor.execute(ACCEPT, values)
        moved: bool = cursor.rowcount == 1
    if moved:
        signals.call_receivers_on_commit(message)
    return moved


def settle_unsent(message: Message, why: Unsent, again: Callable[[], Ready | Unsent | Trouble] | None = None) -> bool:
    """Settle a message that was not transmitted, which has no attempt to record. False if it stays as it is.

    `again` decides again under the lock of a message with a key: since the first decision, a transaction may have changed what
    `is_wanted` reads, and `enqueue` returned this message to it instead of a new one.
    """
    with transaction.atomic():
        if message.key and not _lock(message):
            return False
        if message.key and again:
            decision = again()
            if not isinstance(decision, Unsent):
                return False
            why = decision
        if why is EXPIRED and message.reason:
            why = replace(why, reason=f"{why.reason}; it waited, because: {message.reason}")
        row = Message.objects.filter(pk=message.pk, attempts=message.attempts)
        moved = row.move(why.state, reason=replace_unstorable(why.reason), **_to_notify(message, why.state))
        if moved:
            signals.call_receivers_on_commit(message)
    if moved:
        line = log.error if why.state in (State.FAILED, State.HELD) else log.info
        line("gave up" if why.state is State.FAILED else str(why.state), **message.log_fields(), reason=why.reason)
    return moved == 1


def settle_abandoned(message: Message) -> bool:
    """Settle a claim whose worker is silent: the outcome is unknown. False if it is settled already. Raises UnknownKind."""
    with transaction.atomic():
        abandoned = Message.objects.abandoned().filter(pk=message.pk).values_list("pk")
        # Skip a locked row: its worker may be alive after all and settle it at this moment.
        if not abandoned.select_for_update(skip_locked=True, no_key=True):
            return False
        settle(message, OutcomeUnknown(DIED))
        return True


def _lock(message: Message) -> bool:
    """Lock the row. False while a transaction holds it, whose `enqueue(key=…)` returned this message."""
    return bool(Message.objects.select_for_update(skip_locked=True).filter(pk=message.pk).values_list("pk"))


def _to_notify(message: Message, state: State) -> Mapping[str, object]:
    return signals.to_notify(message.kind) if state in SETTLED else {}


def _close_attempt(message: Message, outcome: Outcome, found: Attribution) -> None:
    """Close the attempt. A server's answer overwrites what a sweep assumed, never the reverse."""
    others = [f"not for {mask(address)}: {answer_of(refusal)}" for address, refusal in outcome.refused.items()]
    message.delivery_attempts.filter(number=message.attempts, outcome__in=UNANSWERED).update(
        outcome=_recorded(outcome, found),
        finished_at=Now(),
        phase=getattr(outcome, "phase", Phase.DOT),
        code=outcome.code,
        response="; ".join([outcome.text, *others]),
    )


def _recorded(outcome: Outcome, found: Attribution) -> Recorded:
    match outcome:
        case Accepted():
            return Recorded.PARTLY_ACCEPTED if outcome.refused else Recorded.ACCEPTED
        case OutcomeUnknown():
            return Recorded.UNCERTAIN
        case Interrupted():
            return Recorded.INTERRUPTED
        case _ if found.is_transports:
            return Recorded.TRANSPORT_DOWN
        case PermanentRefusal() if found.fault is Fault.MESSAGE:
            return Recorded.REFUSED_FOR_GOOD
        case _:  # also a connection that broke with this message
            return Recorded.REFUSED_FOR_NOW


def _note_answers(message: Message, outcome: Outcome, found: Attribution) -> None:
    """Store the final answers for several recipients, so that each gets the message once.

    Under a lock: the answer to an earlier attempt may arrive at the same moment.
    """
    if not outcome.refused and not message.answers:
        return
    answers = {a: REFUSED for a, refusal in outcome.refused.items() if _is_answer(refusal, outcome, found)}
    if isinstance(outcome, Accepted):
        answers |= dict.fromkeys(outcome.recipients, ACCEPTED)
    row = Message.objects.select_for_update(no_key=True).get(pk=message.pk)
    message.answers = row.answers | answers
    Message.objects.filter(pk=message.pk).update(answers=message.answers)


def _is_answer(refusal: TransientRefusal | PermanentRefusal, outcome: Outcome, found: Attribution) -> bool:
    """Return whether a recipient is not tried again.

    If all were refused for good, it may be the transport's fault. Then only what a recipient's own refusal says is final.
    """
    if may_pass(refusal):
        return False
    return not isinstance(outcome, PermanentRefusal) or found.is_final or attribute_alone(refusal).is_final


def _suppress_unknown_addresses(message: Message, outcome: Outcome) -> None:
    """Suppress addresses that the server does not know.

    The refusal may be about another address: a test system redirects mail, and a recipient who was answered in an earlier
    attempt is left out of this one.
    """
    if isinstance(outcome, PermanentRefusal) and outcome.address_unknown and not outcome.refused:
        was_answered = addresses.as_transmitted(message.recipient) in message.answers
        if staging.reaches(message.recipient) and not was_answered:
            suppression.suppress(message.recipient, answer_of(outcome), message, source=SOURCE)
    for address, refusal in outcome.refused.items():
        if isinstance(refusal, PermanentRefusal) and refusal.address_unknown and staging.reaches(address):
            suppression.suppress(address, answer_of(refusal), message, source=SOURCE)


def _apply(message: Message, verdict: Verdict) -> bool:
    changes: dict[str, object] = {"reason": verdict.reason, **_to_notify(message, verdict.state)}
    if verdict.pause is not None:
        changes["due_at"] = Now() + verdict.pause
    row = Message.objects.filter(pk=message.pk)
    if verdict.state is State.SENT:  # final, so it counts unless a newer attempt is under way
        row = row.exclude(state=State.SENDING, attempts__gt=message.attempts)
    else:
        row = row.filter(attempts=message.attempts)
    if not row.move(verdict.state, **changes):
        return False
    if verdict.pause is not None and verdict.publish:
        publish_on_commit(message, verdict.pause)
    if verdict.state in SETTLED:
        signals.call_receivers_on_commit(message)
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
        line.warning("outcome came after the claim was given away; only the attempt records it")
    elif verdict.pause is not None and not verdict.publish:
        line.info("waits for its transport")
    elif verdict.pause is not None:
        line.info("will be tried again", seconds=round(verdict.pause.total_seconds()))
    elif verdict.state is State.HELD:
        line.error("held until a person decides", reason=verdict.reason)
    elif verdict.state is State.FAILED:
        line.error("gave up", reason=verdict.reason)
