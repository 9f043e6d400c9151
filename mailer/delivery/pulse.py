"""The pulse: which processes live, what they last did, and which transports work, at one moment of the database's clock.

It is read from the database alone, so it is true while the broker is down. Pages, probes, metrics and commands print it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import chain

from django.core.mail import mailers
from django.db.models import Max, Q
from django.db.models.functions import Now

from mailer import database
from mailer.conf import options
from mailer.delivery import domains, limits, quota
from mailer.feedback import reputation
from mailer.models import Circuit, Queue, Role, StreamReputation, TransportState, Worker
from mailer.text import clock

BROKER_SILENT = timedelta(seconds=12)
"""Workers ask the broker every 2 s, or after 5 s if it failed."""
BEAT_SILENT = timedelta(seconds=12)
"""Celery beat writes its heartbeat every 2 s."""


class Action(StrEnum):
    """What a person can do about it. The value is the name of the button."""

    DELIVER = "Deliver now from here"
    PROBE = "Probe now"
    RESUME = "Resume"
    RESUME_STREAM = "Resume the stream"
    RETRY = "Retry"
    CANCEL = "Cancel"
    RESEND = "Send again"


@dataclass(frozen=True, slots=True)
class Pulse:
    """What is known of processes and transports at one moment."""

    now: datetime
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """id → process that may have messages in hand, of those that are alive."""
    circuits: Sequence[Circuit] = ()
    """The circuits that are open, and one for each daily quota that is used up."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """alias → messages a second, of transports that are slowed down."""
    worker_at: datetime | None = None
    """The last heartbeat of any worker."""
    swept_at: datetime | None = None
    """The beginning of the last sweep."""
    broker_at: datetime | None = None
    """The last answer of the broker to any worker."""
    beat_at: datetime | None = None
    """The last heartbeat of Celery beat."""
    sending: Mapping[str, int] = field(default_factory=dict)
    """domain → messages that are being sent to it, if any transport limits them."""
    streams: Sequence[StreamReputation] = ()
    """The streams that are paused, and those whose mail was reported as spam."""

    def serving(self, queue: str) -> list[Worker]:
        """Return the living workers that serve a queue."""
        return [worker for worker in self.workers.values() if queue in worker.queues]

    @property
    def has_worker(self) -> bool:
        return any(worker.role == Role.WORKER for worker in self.workers.values())

    @property
    def is_broker_silent(self) -> bool:
        """Whether the workers, of which there is one, get no answer of the broker."""
        return self.has_worker and not self._is_recent(self.broker_at, BROKER_SILENT)

    @property
    def is_sweep_silent(self) -> bool:
        return self.has_worker and not self._is_recent(self.swept_at, 3 * options().sweep_every + BROKER_SILENT)

    @property
    def is_beat_silent(self) -> bool:
        return not self._is_recent(self.beat_at, BEAT_SILENT)

    def age(self, moment: datetime | None) -> float:
        """Return the seconds since a moment; infinite if it is not known."""
        return math.inf if moment is None else max((self.now - moment).total_seconds(), 0.0)

    def _is_recent(self, moment: datetime | None, limit: timedelta) -> bool:
        return self.age(moment) <= limit.total_seconds()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of health: what a part of the system does, and what to do about it."""

    part: str
    sentence: str
    is_well: bool = True
    action: Action | None = None
    target: str = ""
    """The primary key of what the action is about: a circuit or a stream."""


def look() -> Pulse:
    """Read the pulse now. Raises the database's errors."""
    known = Worker.objects.aggregate(
        worker_at=Max("seen_at", filter=~Q(role=Role.BEAT)),
        beat_at=Max("seen_at", filter=Q(role=Role.BEAT)),
        swept_at=Max("swept_at"),
        broker_at=Max("broker_at"),
    )
    circuits = Circuit.objects.exclude(paused_until=None).exclude(by_person=True, paused_until__lte=Now())
    return Pulse(
        now=database.now(),
        workers={str(worker.pk): worker for worker in Worker.objects.alive().exclude(role=Role.BEAT)},
        circuits=[*circuits, *chain.from_iterable(quota.used_up(mailers.settings).values())],
        rates={state.alias: state.rate for state in TransportState.objects.all() if state.rate is not None},
        sending=domains.sending() if any(limits.of(alias).domains for alias in mailers.settings) else {},
        streams=list(StreamReputation.objects.exclude(complaints=0, paused_since=None)),
        **known,
    )


def health(pulse: Pulse) -> list[Line]:
    """Return the lines of health: workers, broker, beat, transports that are paused, and streams that are or may be soon."""
    return [_workers(pulse), _broker(pulse), _beat(pulse), *_transports(pulse), *_streams(pulse)]


def _workers(pulse: Pulse) -> Line:
    if not pulse.has_worker:
        since = f" since {clock(pulse.worker_at)}" if pulse.worker_at else ""
        return Line(
            "Workers", f"No worker has been running{since}. Mail waits, and none is lost.", False, Action.DELIVER
        )
    if unserved := [str(queue) for queue in Queue if not pulse.serving(queue)]:
        return Line("Workers", f"No running worker serves {', '.join(unserved)}.", False, Action.DELIVER)
    if pulse.is_sweep_silent:
        return Line("Workers", f"No worker has swept since {clock(pulse.swept_at) or 'the start'}.", False)
    hosts = sorted({worker.host for worker in pulse.workers.values()})
    number = f"{len(pulse.workers)} worker processes run" if len(pulse.workers) > 1 else "1 worker process runs"
    return Line("Workers", f"{number} on {', '.join(hosts)}.")


def _broker(pulse: Pulse) -> Line:
    if not pulse.has_worker:
        return Line("Broker", f"Unknown: no worker asks it. Last answer: {clock(pulse.broker_at) or 'none'}.")
    if pulse.is_broker_silent:
        since = f" since {clock(pulse.broker_at)}" if pulse.broker_at else ""
        sentence = (
            f"The broker has not answered the workers{since}, or refuses what they do: their logs say which. Mail is some "
            "seconds late, and none is lost."
        )
        return Line("Broker", sentence, False, Action.DELIVER)
    return Line("Broker", "The broker answers.")


def _beat(pulse: Pulse) -> Line:
    if not pulse.is_beat_silent:
        return Line("Beat", "Celery beat runs.")
    since = f" since {clock(pulse.beat_at)}" if pulse.beat_at else ""
    return Line("Beat", f"Celery beat has not been running{since}. Mail leaves, but old rows are not deleted.", False)


def _transports(pulse: Pulse) -> Iterator[Line]:
    if not pulse.circuits:
        yield Line("Transports", "All transports work.")
    for circuit in pulse.circuits:
        if circuit.by_quota:
            yield Line("Transports", paused(circuit), False)
            continue
        action, then = (Action.RESUME, "Until") if circuit.by_person else (Action.PROBE, "Next probe")
        until = f" {then}: {clock(circuit.ends_at)}." if circuit.ends_at else ""
        yield Line("Transports", f"{paused(circuit)}{until}", False, action, str(circuit.pk))


def _streams(pulse: Pulse) -> Iterator[Line]:
    for stream in pulse.streams:
        if stream.paused_since:
            yield Line("Streams", reputation.describe(stream), False, Action.RESUME_STREAM, stream.pk)
        elif reputation.is_high(stream):
            yield Line("Streams", reputation.describe(stream), False)


def paused(circuit: Circuit) -> str:
    """Say that a transport is paused, since when, and why."""
    if circuit.by_quota:
        return f"The transport {circuit.transport!r} waits: {circuit.reason} until {clock(circuit.ends_at)}."
    since = f" since {clock(circuit.paused_since)}" if circuit.paused_since else ""
    reason = f": {circuit.reason.rstrip('. ')}" if circuit.reason else ""
    if circuit.by_person:
        paused_by = f"The transport {circuit.transport!r} has been paused by a person{since}{reason}."
        return f"{paused_by} resume_transport continues it."
    where = f" from {circuit.host}" if circuit.host else ""
    todo = " A person must correct its account or configuration." if circuit.needs_person else ""
    return f"The transport {circuit.transport!r} cannot be used{where}{since}{reason}.{todo}"
