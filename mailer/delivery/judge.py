"""Judge whose fault an answer is, by what its transport said lately, and pause or slow down a transport that is at fault."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from django.db.models import F, QuerySet
from django.db.models.functions import Now

from mailer.delivery import circuit, rate
from mailer.delivery.attribution import MESSAGE, Attribution, Fault, attribute
from mailer.delivery.circuit import Transport
from mailer.delivery.evidence import LATELY, Heard, Refused
from mailer.models import TOOK, DeliveryAttempt, Message
from mailer.models import Outcome as Recorded
from mailer.outcomes import Accepted, Outcome, Phase, TransportDown

LIMIT = 100
"""Answers that are looked at, the newest ones."""


def judge(message: Message, transport: Transport, outcome: Outcome) -> Attribution:
    """Decide whose fault the outcome of an attempt is, and pause or slow down the transport if it is the transport's."""
    if isinstance(outcome, Refused):
        found = _attribute(message, transport, outcome)
        _hold_back(transport, outcome, found)
        return found
    if isinstance(outcome, Accepted):
        circuit.close(transport)
    return MESSAGE


def judge_connection(message: Message, transport: Transport, down: TransportDown) -> Attribution:
    """Decide the same about a connection that was not made. If only too many are open, nothing is paused or slowed down."""
    found = _attribute(message, transport, down)
    if found.fault is not Fault.CONNECTIONS:
        _hold_back(transport, down, found)
    return found


def _attribute(message: Message, transport: Transport, refusal: Refused) -> Attribution:
    domain = "" if refusal.refused or message.answers else _domain_of(message.recipient)
    return attribute(refusal, _lately(transport.alias, message), message=message.pk, domain=domain)


def _hold_back(transport: Transport, refusal: Refused, found: Attribution) -> None:
    match found.fault:
        case Fault.RATE | Fault.CONNECTIONS:
            rate.slow_down(transport.alias)
        case Fault.TRANSPORT if isinstance(refusal, TransportDown):
            circuit.pause_here(transport, refusal)
        case Fault.TRANSPORT | Fault.QUOTA | Fault.ACCOUNT:
            circuit.pause_everywhere(transport, refusal, found)
        case Fault.MESSAGE:
            circuit.close(transport)
        case Fault.UNDECIDED:
            pass


def _lately(alias: str, message: Message) -> Sequence[Heard]:
    """Return the last answers of a transport to this message, and to others, which are more if the transport is busy."""
    own = DeliveryAttempt.objects.filter(message=message)
    others = DeliveryAttempt.objects.newest().exclude(message=message)
    return [*_answers(alias, own), *_answers(alias, others)]


def _answers(alias: str, attempts: QuerySet[DeliveryAttempt]) -> Iterator[Heard]:
    answers = (
        attempts.filter(transport=alias, finished_at__gt=Now() - timedelta(seconds=LATELY))
        .exclude(outcome__in=[Recorded.UNCERTAIN, Recorded.INTERRUPTED])
        .exclude(phase="")
        .annotate(age=Now() - F("finished_at"), lasted=F("finished_at") - F("started_at"))
        .order_by("-pk")
        .values_list("message_id", "message__recipient", "phase", "code", "response", "outcome", "age", "lasted")
    )
    for message_id, recipient, phase, code, response, outcome, age, lasted in answers[:LIMIT]:
        yield Heard(
            message=message_id,
            domain=_domain_of(recipient),
            phase=Phase(phase),
            code=code,
            text=response,
            is_accepted=outcome in TOOK,
            seconds_ago=age.total_seconds(),
            seconds=lasted.total_seconds(),
        )


def _domain_of(recipient: str) -> str:
    """Return the domain of an address, in lower case."""
    return recipient.rpartition("@")[2].lower()
