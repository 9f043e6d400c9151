"""Say in one sentence why a message is where it is, and until when. Pages, probes and commands print this."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import BooleanField, Count, ExpressionWrapper, Min, Q

from mailer import database, routes
from mailer.conf import options
from mailer.delivery import circuit
from mailer.delivery.claim import LEASE
from mailer.delivery.reserve import QUARANTINE
from mailer.email import KINDS
from mailer.models import WAITING, Circuit, Message, MessageQuerySet, Queue, State, TransportState, Worker

SLOW = timedelta(seconds=30)
"""A due message that no worker has taken for this long waits for a free worker."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known beside the row of a message, at one moment of the database's clock."""

    now: datetime
    workers: Mapping[str, Worker]
    """id → worker, of those that are alive."""
    circuits: Sequence[Circuit]
    """The circuits that are open."""
    rates: Mapping[str, float]
    """alias → messages a second, of transports that are slowed down."""
    last_seen: datetime | None
    """The last heartbeat of any worker."""

    def serving(self, queue: str) -> list[Worker]:
        return [worker for worker in self.workers.values() if queue in worker.queues]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a message is where it is."""

    sentence: str
    until: datetime | None = None
    """When something happens next by itself, if that is known."""
    is_stuck: bool = False
    """Whether it waits for a person: nothing will happen by itself."""

    def __str__(self) -> str:
        return f"{self.sentence} Next: {_clock(self.until)}." if self.until else self.sentence


def look() -> Situation:
    """Look at workers and transports now."""
    alive = {str(worker.pk): worker for worker in Worker.objects.alive()}
    last = Worker.objects.order_by("-seen_at").first()
    return Situation(
        now=database.now(),
        workers=alive,
        circuits=list(Circuit.objects.exclude(paused_until=None)),
        rates={state.alias: state.rate for state in TransportState.objects.all() if state.rate is not None},
        last_seen=last.seen_at if last else None,
    )


def explain(message: Message, situation: Situation) -> Explanation:
    """Explain the state of a message. Asks no server; the situation may be shared by many messages."""
    if message.state in WAITING:
        return _why_it_waits(message, situation)
    if message.state == State.SENDING:
        return _sending(message, situation)
    reason = _quoted(message.reason)
    if message.state == State.HELD:
        return Explanation(f"Held: {reason}. Retry it, cancel it or mark it as delivered.", is_stuck=True)
    return Explanation(f"{message.get_state_display().capitalize()}{f': {reason}' if reason else ''}.")


def _sending(message: Message, situation: Situation) -> Explanation:
    began = f" since {_clock(message.claimed_until - LEASE)}" if message.claimed_until else ""
    if worker := situation.workers.get(str(message.worker)):
        return Explanation(f"{worker} has been sending it{began}. A server may take 10 minutes to answer.")
    if message.kind not in KINDS:
        return Explanation(
            f"Its worker died while it sent it; {_needs_release(f'kind {message.kind!r}')}", is_stuck=True
        )
    return _no_worker_at_all(situation) or Explanation(
        f"Its worker, which had it{began}, died or lost the database. A sweep settles it in a moment: it may have arrived."
    )


def _why_it_waits(message: Message, situation: Situation) -> Explanation:
    """The causes in the order in which they would stop it."""
    return (
        _unknown_here(message)
        or _later(message, situation)
        or _no_worker_at_all(situation)
        or _expired(message, situation)
        or _no_worker_of_its_queue(message, situation)
        or _in_hand(message, situation)
        or _paused(message, situation)
        or _its_turn(message, situation)
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
    return Explanation(unknown[0].upper() + unknown[1:], is_stuck=True)


def _needs_release(what: str) -> str:
    return f"it waits for a release that has the {what}; this one has not. Deploy that release, or cancel it."


def _later(message: Message, situation: Situation) -> Explanation | None:
    if message.due_at <= situation.now:
        return None
    reason = _quoted(message.reason)
    if message.troubled_since:
        since = _clock(message.troubled_since)
        return Explanation(f"Since {since} it could not be prepared: {reason}. It is tried again.", message.due_at)
    if message.attempts and reason:
        return Explanation(f"Attempt {message.attempts} was not accepted: {reason}. It is tried again.", message.due_at)
    return Explanation("It was asked to be sent later.", message.due_at)


def _no_worker_at_all(situation: Situation) -> Explanation | None:
    if situation.workers:
        return None
    seen = f"the last one was seen at {_clock(situation.last_seen)}" if situation.last_seen else "none was seen lately"
    return Explanation(f"No worker is running; {seen}. Start a worker.", is_stuck=True)


def _expired(message: Message, situation: Situation) -> Explanation | None:
    if message.expires_at is None or message.expires_at > situation.now:
        return None
    return Explanation(f"Its deadline passed at {_clock(message.expires_at)}. A sweep settles it in a moment.")


def _no_worker_of_its_queue(message: Message, situation: Situation) -> Explanation | None:
    if situation.serving(message.queue):
        return None
    served = {queue for worker in situation.workers.values() for queue in worker.queues}
    others = f"the running ones serve {', '.join(sorted(served))}" if served else "the running ones serve none"
    sentence = f"No running worker serves the queue {str(message.queue)!r}; {others}. Start one that does."
    return Explanation(sentence, is_stuck=True)


def _in_hand(message: Message, situation: Situation) -> Explanation | None:
    if worker := situation.workers.get(str(message.worker)):
        return Explanation(f"{worker} has it in hand.")
    if message.worker and message.reservations > 1:
        times = f"{message.reservations} workers died with it in hand, before it was sent"
        return Explanation(f"{times}. Another one takes it; after {QUARANTINE} it is held for a person.")
    return None


def _paused(message: Message, situation: Situation) -> Explanation | None:
    """The pause that ends first, if every transport of its route is paused for every host that serves its queue."""
    hosts = {worker.host for worker in situation.serving(message.queue)}
    pauses = [_pause(alias, hosts, situation) for alias in routes.transports(message.transport)]
    stopping = [pause for pause in pauses if pause is not None]
    if len(stopping) < len(pauses):
        return None
    first = min(stopping, key=lambda pause: pause.paused_until or situation.now)
    where = f" from {', '.join(sorted(hosts))}" if first.host else ""
    since = f" since {_clock(first.paused_since)}" if first.paused_since else ""
    todo = "A person must correct its account or configuration; it is" if first.needs_person else "It is"
    return Explanation(
        f"The transport {first.transport!r} cannot be used{where}{since}: {_quoted(first.reason)}. {todo} tried again.",
        max(first.paused_until or situation.now, situation.now),
        is_stuck=first.needs_person,
    )


def _pause(alias: str, hosts: set[str], situation: Situation) -> Circuit | None:
    """Return the circuit that stops a transport for all of these hosts, the one that ends first."""
    of_alias = {each.host: each for each in situation.circuits if each.transport == alias}
    if circuit.ALL in of_alias:
        return of_alias[circuit.ALL]
    if not hosts or not hosts <= of_alias.keys():
        return None
    return min((of_alias[host] for host in hosts), key=lambda pause: pause.paused_until or situation.now)


def _its_turn(message: Message, situation: Situation) -> Explanation:
    since = f"It has been due since {_clock(message.due_at)}"
    if situation.now - message.due_at <= SLOW:
        return Explanation("It is due, and a worker takes it in a moment.")
    learnt, set_by_hand = situation.rates.get(routes.transports(message.transport)[0]), options().rate_per_second
    if learnt is not None and (set_by_hand is None or learnt < set_by_hand):
        return Explanation(f"{since}, and waits for its turn: the server takes about {learnt:.2g} messages a second.")
    if set_by_hand is not None:
        limit = f"POSTCOMMIT_RATE_PER_SECOND is {set_by_hand:g}"
        return Explanation(f"{since}, and waits for its turn: {limit}.")
    number = len(situation.serving(message.queue))
    return Explanation(f"{since}. The workers of its queue ({number}) are busy with messages before it.")


def tally(situation: Situation, messages: MessageQuerySet) -> Sequence[tuple[Explanation, int]]:
    """Return why these messages are where they are, with their numbers, the most frequent first.

    One message is explained for all that share what an explanation depends on; `until` is that one's.
    """
    alike = messages.annotate(is_due=_is(due_at__lte=situation.now), is_troubled=_is(troubled_since__isnull=False))
    groups = alike.order_by().values("state", "kind", "queue", "transport", "is_due", "is_troubled")
    numbers = dict(groups.annotate(number=Count("pk"), example=Min("pk")).values_list("example", "number"))
    by_sentence: dict[str, tuple[Explanation, int]] = {}
    for example in Message.objects.filter(pk__in=numbers).order_by("pk"):
        found = explain(example, situation)
        first, number = by_sentence.get(found.sentence, (found, 0))
        by_sentence[found.sentence] = first, number + numbers[example.pk]
    return sorted(by_sentence.values(), key=lambda reason: -reason[1])


def stuck(situation: Situation, messages: MessageQuerySet) -> Mapping[str, int]:
    """Return the number of messages by the sentence why they wait, the most frequent first; only those that are stuck."""
    return {reason.sentence: number for reason, number in tally(situation, messages) if reason.is_stuck}


def _quoted(reason: str) -> str:
    return reason.rstrip(". ")


def _is(**condition: object) -> "ExpressionWrapper[Q]":
    return ExpressionWrapper(Q(**condition), output_field=BooleanField())


def _clock(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""
