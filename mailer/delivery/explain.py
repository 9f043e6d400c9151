"""Say in one sentence why a message is where it is, until when, and what to do. Pages, probes and commands print this."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.db.models import BooleanField, Count, ExpressionWrapper, Min, Q

from mailer import routes
from mailer.addresses import canonical
from mailer.delivery import circuit, domains, limits, shares
from mailer.delivery.claim import LEASE
from mailer.delivery.pulse import Action, Pulse, paused
from mailer.delivery.reserve import QUARANTINE
from mailer.email import KINDS
from mailer.feedback import reputation
from mailer.models import (
    OPEN_END,
    TOOK,
    Circuit,
    DeliveryAttempt,
    DeliveryEvent,
    Message,
    MessageQuerySet,
    Outcome,
    Queue,
    State,
    Suppression,
    What,
)
from mailer.text import clock

SLOW = timedelta(seconds=30)
"""A due message that no worker has taken for this long waits for a free worker."""


NEWS: Mapping[What, str] = {
    What.DELIVERED: "Delivered at",
    What.DELAYED: "Delayed on its way, as was said at",
    What.BOUNCED: "It came back at",
    What.DROPPED: "The provider did not send it, as it said at",
    What.COMPLAINED: "It was reported as spam at",
    What.UNSUBSCRIBED: "The recipient unsubscribed at",
}
"""How a report reads. That a mail was opened says little: many programs open it by themselves."""
BAD_NEWS = {What.BOUNCED, What.DROPPED, What.COMPLAINED}


class Level(StrEnum):
    """How an operator should see it at first sight. The value is a CSS class."""

    WELL = "well"
    WAITING = "waiting"
    ENDED = "ended"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a message is where it is."""

    sentence: str
    until: datetime | None = None
    """When something happens next by itself, if that is known."""
    is_stuck: bool = False
    """Whether it waits for a person: nothing will happen by itself."""
    action: Action | None = None
    """The one useful thing to do."""
    target: str = ""
    """The primary key of what the action is about: a circuit or a stream."""
    level: Level = Level.WAITING

    def __str__(self) -> str:
        is_told = self.until is None or clock(self.until) in self.sentence
        return self.sentence if is_told else f"{self.sentence} Next: {clock(self.until)}."


@dataclass(frozen=True, slots=True)
class Facts:
    """What other tables say about a message."""

    attempts: Sequence[DeliveryAttempt] = ()
    """In the order of their numbers."""
    suppression: Suppression | None = None
    """Why its recipient gets no mail at all."""
    events: Sequence[DeliveryEvent] = ()
    """What the receiving side said, the earliest first."""


NOTHING = Facts()


def facts(messages: Iterable[Message]) -> Mapping[int, Facts]:
    """Return the facts about messages, in three queries."""
    messages = list(messages)
    attempts: dict[int, list[DeliveryAttempt]] = {message.pk: [] for message in messages}
    for attempt in DeliveryAttempt.objects.filter(message__in=attempts).order_by("number"):
        attempts[attempt.message_id].append(attempt)
    events: dict[int | None, list[DeliveryEvent]] = {message.pk: [] for message in messages}
    for event in DeliveryEvent.objects.filter(message__in=attempts).order_by("at", "pk"):
        events[event.message_id].append(event)
    states = (State.FAILED, State.SUPPRESSED)
    addresses = {message.recipient for message in messages if message.state in states or events[message.pk]}
    rows = Suppression.objects.filter(stream="", address__in=addresses) if addresses else ()
    suppressions = {row.address: row for row in rows}
    return {
        message.pk: Facts(attempts[message.pk], suppressions.get(canonical(message.recipient)), events[message.pk])
        for message in messages
    }


def explain(message: Message, pulse: Pulse, known: Facts = NOTHING) -> Explanation:
    """Explain the state of a message. Asks no server; the pulse may be shared by many messages."""
    match message.state:
        case State.QUEUED | State.RETRYING:
            return _why_it_waits(message, pulse)
        case State.SENDING:
            return _sending(message, pulse)
        case State.SENT:
            return _sent(message, known)
        case State.HELD:
            sentence = f"Held: {_quoted(message.reason)}. Retry it, cancel it or mark it as delivered."
            return Explanation(sentence, is_stuck=True, action=Action.RETRY, level=Level.BAD)
        case State.FAILED:
            return _failed(message, known)
        case _:
            return _not_sent(message, known)


def what_stops(message: Message, pulse: Pulse) -> Explanation | None:
    """Explain what stops every message with this queue and this route. Return None if nothing does."""
    return _no_worker_at_all(pulse) or _no_worker_of_its_queue(message, pulse) or _paused(message, pulse)


def _sent(message: Message, known: Facts) -> Explanation:
    """Add what the receiving side said last of each kind: a mail to several people may be delivered and come back."""
    newest = {event.what: event for event in known.events if event.what in NEWS}
    sentences = [f"{NEWS[What(event.what)]} {clock(event.at)}{_words(event)}." for event in newest.values()]
    is_bad = not newest.keys().isdisjoint(BAD_NEWS)
    if is_bad and known.suppression:
        sentences.append(f"The address gets no mail since {clock(known.suppression.created_at)}.")
    return Explanation(" ".join([_accepted(message, known), *sentences]), level=Level.BAD if is_bad else Level.WELL)


def _words(event: DeliveryEvent) -> str:
    said = _quoted(event.said) if event.what != What.DELIVERED else ""
    return f": {said}" if said else ""


def _accepted(message: Message, known: Facts) -> str:
    accepted = [attempt for attempt in known.attempts if attempt.outcome in TOOK]
    if not accepted:  # for example because a person marked it as delivered
        return f"Sent: {_quoted(message.reason)}." if message.reason else "Accepted by the server."
    last = accepted[-1]
    said = _quoted(f"{last.code} {last.response}".strip())
    sentence = f"Accepted at {clock(last.finished_at)} by {last.transport!r}: {said or 'no words'}."
    before = sum(a.outcome == Outcome.UNCERTAIN for a in known.attempts)
    if not before:
        return sentence
    tries = "An earlier try" if before == 1 else f"{before} earlier tries"
    return f"{sentence} {tries} had no answer, so there may be copies with the same Message-ID."


def _failed(message: Message, known: Facts) -> Explanation:
    sentence = f"Failed: {_quoted(message.reason) or 'no reason is on record'}."
    if known.suppression:
        sentence += f" The address gets no mail since {clock(known.suppression.created_at)}."
    return Explanation(sentence, action=None if known.suppression else Action.RETRY, level=Level.BAD)


def _not_sent(message: Message, known: Facts) -> Explanation:
    reason = _quoted(message.reason) or str(message.get_state_display())
    if message.state == State.SUPPRESSED and known.suppression:
        since = clock(known.suppression.created_at)
        reason = f"the address gets no mail since {since}, because: {_quoted(known.suppression.reason)}"
    return Explanation(f"Not sent: {reason}.", level=Level.ENDED)


def _sending(message: Message, pulse: Pulse) -> Explanation:
    began = f" since {clock(message.claimed_until - LEASE)}" if message.claimed_until else ""
    if worker := pulse.workers.get(str(message.worker)):
        return Explanation(f"{worker} has been sending it{began}. A server may take 10 minutes to answer.")
    if message.kind not in KINDS:
        return Explanation(
            f"Its worker died while it sent it; {_needs_release(f'kind {message.kind!r}')}", is_stuck=True
        )
    return _no_worker_at_all(pulse) or Explanation(
        f"Its worker, which had it{began}, died or lost the database. A sweep settles it in a moment: it may have arrived."
    )


def _why_it_waits(message: Message, pulse: Pulse) -> Explanation:
    """The causes in the order in which they would stop it."""
    return (
        _unknown_here(message)
        or _set_aside(message, pulse)
        or _later(message, pulse)
        or _no_worker_at_all(pulse)
        or _expired(message, pulse)
        or _no_worker_of_its_queue(message, pulse)
        or _in_hand(message, pulse)
        or _paused(message, pulse)
        or _full_domain(message, pulse)
        or _its_turn(message, pulse)
    )


def _unknown_here(message: Message) -> Explanation | None:
    """Name what this release does not know. Another release may be running somewhere, or was rolled back."""
    kind = KINDS.get(message.kind)
    fields = {field.name for field in dataclasses.fields(kind)} if kind else set()  # type: ignore[arg-type]
    if kind is None:
        unknown = _needs_release(f"kind {message.kind!r}")
    elif more := message.arguments.keys() - fields:
        unknown = _needs_release(f"field {min(more)!r} of {message.kind}")
    elif not routes.transports(message.transport):
        unknown = _needs_release(f"transport {(message.transport or routes.PRIMARY)!r}")
    elif message.queue not in Queue:
        unknown = _needs_release(f"queue {str(message.queue)!r}")
    else:
        return None
    return Explanation(unknown[0].upper() + unknown[1:], is_stuck=True, action=Action.CANCEL)


def _needs_release(what: str) -> str:
    return f"it waits for a release that has the {what}; this one has not. Deploy that release, or cancel it."


def _set_aside(message: Message, pulse: Pulse) -> Explanation | None:
    """The pause of its stream, if it is due, or was when a worker set it aside."""
    is_aside = message.due_at == OPEN_END
    if message.due_at > pulse.now and not is_aside:
        return None
    mine = KINDS[message.kind].stream
    paused = next((each for each in pulse.streams if each.paused_since and mine and each.pk == mine.name), None)
    if paused:
        return Explanation(reputation.describe(paused), is_stuck=True, action=Action.RESUME_STREAM, target=paused.pk)
    return Explanation("Its stream goes on. A sweep makes it due in a moment.") if is_aside else None


def _later(message: Message, pulse: Pulse) -> Explanation | None:
    if message.due_at <= pulse.now or _full_domain(message, pulse):
        return None
    reason = _quoted(message.reason)
    if message.troubled_since:
        since = clock(message.troubled_since)
        return Explanation(f"Since {since} it could not be prepared: {reason}. It is tried again.", message.due_at)
    if message.attempts and reason:
        return Explanation(f"Attempt {message.attempts} was not accepted: {reason}. It is tried again.", message.due_at)
    return Explanation("It was asked to be sent later.", message.due_at)


def _no_worker_at_all(pulse: Pulse) -> Explanation | None:
    if pulse.workers:
        return None
    seen = f"the last one was seen at {clock(pulse.worker_at)}" if pulse.worker_at else "none was seen lately"
    return Explanation(f"No worker is running; {seen}. Start a worker.", is_stuck=True, action=Action.DELIVER)


def _expired(message: Message, pulse: Pulse) -> Explanation | None:
    if message.expires_at is None or message.expires_at > pulse.now:
        return None
    return Explanation(f"Its deadline passed at {clock(message.expires_at)}. A sweep settles it in a moment.")


def _no_worker_of_its_queue(message: Message, pulse: Pulse) -> Explanation | None:
    if pulse.serving(message.queue):
        return None
    served = {queue for worker in pulse.workers.values() for queue in worker.queues}
    others = f"the running ones serve {', '.join(sorted(served))}" if served else "the running ones serve none"
    sentence = f"No running worker serves the queue {str(message.queue)!r}; {others}. Start one that does."
    return Explanation(sentence, is_stuck=True, action=Action.DELIVER)


def _in_hand(message: Message, pulse: Pulse) -> Explanation | None:
    if worker := pulse.workers.get(str(message.worker)):
        return Explanation(f"{worker} has it in hand.")
    if message.worker and message.reservations > 1:
        times = f"{message.reservations} workers died with it in hand, before it was sent"
        return Explanation(f"{times}. Another one takes it; after {QUARANTINE} it is held for a person.")
    return None


def _paused(message: Message, pulse: Pulse) -> Explanation | None:
    """The pause that ends first, if every transport of its route is paused for every host that serves its queue."""
    hosts = {worker.host for worker in pulse.serving(message.queue)}
    pauses = [_pause(alias, hosts, pulse) for alias in routes.transports(message.transport)]
    stopping = [pause for pause in pauses if pause is not None]
    if not stopping or len(stopping) < len(pauses):
        return None
    first = min(stopping, key=lambda pause: pause.paused_until or pulse.now)
    if first.by_quota:
        return Explanation(paused(first), first.ends_at)
    if first.by_person:
        return Explanation(paused(first), first.ends_at, first.ends_at is None, Action.RESUME, str(first.pk))
    until = max(first.paused_until or pulse.now, pulse.now)
    return Explanation(paused(first), until, first.needs_person, Action.PROBE, str(first.pk))


def _pause(alias: str, hosts: set[str], pulse: Pulse) -> Circuit | None:
    """Return the circuit that stops a transport for all of these hosts, the one that ends first."""
    mine = [each for each in pulse.circuits if each.transport == alias]
    if by_person := next((each for each in mine if each.by_person), None):
        return by_person
    of_alias = {each.host: each for each in mine}
    if circuit.ALL in of_alias:
        return of_alias[circuit.ALL]
    if not hosts or not hosts <= of_alias.keys():
        return None
    return min((of_alias[host] for host in hosts), key=lambda pause: pause.paused_until or pulse.now)


def _full_domain(message: Message, pulse: Pulse) -> Explanation | None:
    place = domains.place_for(shares.in_order(message.transport, message.pk)[0], message.recipient)
    if place is None or pulse.sending.get(place.domain, 0) < place.limit or message.due_at > pulse.now + domains.PAUSE:
        return None
    return Explanation(f"It waits for its turn: {place}.")


def _its_turn(message: Message, pulse: Pulse) -> Explanation:
    since = f"It has been due since {clock(message.due_at)}"
    if pulse.now - message.due_at <= SLOW:
        if pulse.is_broker_silent:
            broker = f"The broker has not answered since {clock(pulse.broker_at) or 'the start'}"
            return Explanation(f"It is due. {broker}, so a worker takes it without a task, in some seconds.")
        return Explanation("It is due, and a worker takes it in a moment.")
    alias = shares.in_order(message.transport, message.pk)[0]
    learnt, set_by_hand = pulse.rates.get(alias), limits.of(alias).rate
    if learnt is not None and (set_by_hand is None or learnt < set_by_hand):
        return Explanation(f"{since}, and waits for its turn: the server takes about {learnt:.2g} messages a second.")
    if set_by_hand is not None:
        limit = f"{limits.of(alias).source} is {set_by_hand:g}"
        return Explanation(f"{since}, and waits for its turn: {limit}.")
    number = len(pulse.serving(message.queue))
    return Explanation(f"{since}. The workers of its queue ({number}) are busy with messages before it.")


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a number of messages are where they are. `until` of the explanation is that of one of them."""

    explanation: Explanation
    number: int
    since: datetime
    """When the first of them was first due."""


def tally(pulse: Pulse, messages: MessageQuerySet) -> Sequence[Cause]:
    """Return why these messages are where they are, the most frequent cause first.

    One message is explained for all that share what an explanation depends on.
    """
    alike = messages.annotate(
        is_due=_is(due_at__lte=pulse.now),
        is_aside=_is(due_at=OPEN_END),
        is_troubled=_is(troubled_since__isnull=False),
    )
    groups = alike.order_by().values("state", "kind", "queue", "transport", "is_due", "is_aside", "is_troubled")
    counted = groups.annotate(number=Count("pk"), example=Min("pk"), since=Min("first_due_at"))
    numbers = {example: (number, since) for example, number, since in counted.values_list("example", "number", "since")}
    causes: dict[str, Cause] = {}
    for example in Message.objects.filter(pk__in=numbers).order_by("pk"):
        number, since = numbers[example.pk]
        cause = Cause(explain(example, pulse), number, since)
        if known := causes.get(cause.explanation.sentence):
            cause = Cause(known.explanation, known.number + number, min(known.since, since))
        causes[cause.explanation.sentence] = cause
    return sorted(causes.values(), key=lambda cause: -cause.number)


def stuck(pulse: Pulse, messages: MessageQuerySet) -> Mapping[str, int]:
    """Return the number of messages by the sentence why they wait, the most frequent first; only those that are stuck."""
    return {c.explanation.sentence: c.number for c in tally(pulse, messages) if c.explanation.is_stuck}


def _quoted(reason: str) -> str:
    return reason.rstrip(". ")


def _is(**condition: object) -> "ExpressionWrapper[Q]":
    return ExpressionWrapper(Q(**condition), output_field=BooleanField())
