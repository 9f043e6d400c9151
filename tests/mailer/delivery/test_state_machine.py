"""Workers, sweeps and people interleave at any two statements; processes die, stop, wake up late and have wrong clocks; the
database goes away, and the mail server answers anything. After every statement all promises are checked.

The product's functions run on a real PostgreSQL, each in a greenlet that stops before every statement and transaction. No
thread runs and nobody sleeps. The mail server, the broker and the clocks are models; the server knows who really got a mail.

    make sequences        # other orders each time; `make test` takes the same ones every time
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import combinations, product
from types import SimpleNamespace
from typing import Any, ClassVar, assert_never
from uuid import UUID

import hypothesis
import pytest
import time_machine
from django.core.mail import EmailMessage
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from greenlet import GreenletExit, getcurrent, greenlet
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from accounts.models import User
from mailer import addresses, outbox, signals
from mailer.conf import HORIZON, options
from mailer.delivery import broker, claim, explain, pipeline, pulse, reserve, retention, settle, sweep
from mailer.delivery import heartbeat as heartbeats
from mailer.delivery import prepare as preparing
from mailer.delivery.heartbeat import EVERY, heartbeat
from mailer.email import WhenUncertain
from mailer.models import (
    ACCEPTED,
    REFUSED,
    SETTLED,
    SILENCE,
    SOURCES,
    UNSETTLED,
    WAITING,
    Circuit,
    DeliveryAttempt,
    Message,
    Queue,
    Role,
    State,
    Suppression,
    TransportState,
    Worker,
)
from mailer.models import Outcome as Recorded
from mailer.outcomes import (
    Accepted,
    Busy,
    Interrupted,
    Outcome,
    OutcomeUnknown,
    PermanentRefusal,
    Phase,
    Stop,
    TransientRefusal,
    TransportDown,
)
from tests import history
from tests.mailer.kinds import Shared

IS_LONG = "EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("EXAMPLES", "8"))
STEPS = int(os.environ.get("STEPS", "50"))
TOGETHER = 10
"""Turns in one step of hypothesis, which would stop early more often if each were a step."""

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(0),  # hypothesis takes minutes to shrink a failure
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),  # by killed actors
]

ANN, BOB, CID, DEE = "ann@example.com", "bob@example.org", "cid@example.com", "dee@example.net"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
MOST = 3
"""Unsettled messages at a time: with few, the turns meet at the same one."""
LONGEST_CONVERSATION = timedelta(minutes=30)
"""In which a mail server that is slow, but not silent, takes a message up to its final dot."""
FAULTS = {"building": False, "receivers": False}
"""Which code of the application raises at this moment."""


class Notice(Shared):
    """For several recipients, with or without a deadline."""

    lifetime: float | None = None

    def expires_at(self) -> datetime | None:
        return None if self.lifetime is None else timezone.now() + timedelta(seconds=self.lifetime)

    def context(self) -> Mapping[str, Any]:
        if FAULTS["building"]:
            raise RuntimeError("a service is away")
        return super().context()


class Certificate(Notice):
    """A copy of it would do harm."""

    when_uncertain: ClassVar = WhenUncertain.HOLD


@dataclass(frozen=True)
class Request:
    """The arguments of one call of `enqueue`."""

    kind: type[Notice]
    to: str
    copies: tuple[str, ...]
    key: str
    delay: float
    lifetime: float | None

    def enqueue(self) -> Message:
        email = self.kind(User.objects.get(email=self.to), copies=list(self.copies), lifetime=self.lifetime)
        return outbox.enqueue(email, delay=timedelta(seconds=self.delay), key=self.key)


# The mail server.

REFUSALS: dict[str, TransientRefusal | PermanentRefusal] = {
    "later": TransientRefusal("451", "4.7.1 later", Phase.RCPT),
    "too many": TransientRefusal("452", "4.5.3 too many recipients", Phase.RCPT),
    "never": PermanentRefusal("554", "5.7.1 no", Phase.RCPT),
    "unknown": PermanentRefusal("550", "5.1.1 no such user", Phase.RCPT, address_unknown=True),
}
UNKNOWN = OutcomeUnknown("the payload was sent, then the connection broke")
ENDINGS: dict[str, Outcome] = {
    "taken": Accepted("250", "2.0.0 Ok"),
    "taken, then cut": UNKNOWN,
    "cut": UNKNOWN,
    "cut before the dot": TransportDown("", "connection reset", Phase.DATA),
    "sender refused": PermanentRefusal("550", "5.7.1 not permitted to send as this sender", Phase.MAIL),
    "closing": TransientRefusal("421", "4.3.2 closing", Phase.RCPT),
    "disk full": TransientRefusal("452", "4.3.1 disk full", Phase.MAIL),
    "much later": TransientRefusal("451", "4.7.1 later", retry_after=timedelta(hours=2)),
    "later": TransientRefusal("451", "4.7.1 later"),
    "never": PermanentRefusal("554", "5.6.0 no"),
}
CONNECTS: dict[str, TransportDown | Busy | None] = {
    "yes": None,
    "refused": TransportDown("", "connection refused"),
    "locked": TransportDown("535", "5.7.8 account locked", Phase.LOGIN, misconfigured=True),
    "busy": Busy("421 too many connections"),
}


@dataclass(frozen=True)
class Server:
    """The answers of the mail server: it may refuse the connection, or some recipients, and then answers the payload."""

    refuses: Mapping[str, str] = field(default_factory=dict)
    ending: str = "taken"
    connects: str = "yes"

    def answer_before_the_dot(self, offered: Collection[str]) -> Outcome | None:
        """Return the answer to a message that is not taken up to its dot."""
        refused = self._refused(offered)
        if getattr(ENDINGS[self.ending], "phase", Phase.DOT) is not Phase.DOT:
            return ENDINGS[self.ending]
        return _all_refused(refused) if len(refused) == len(offered) else None

    def receive(self, offered: Collection[str]) -> tuple[Outcome, frozenset[str]]:
        """Return the answer to the dot, and the recipients that get the message."""
        none: frozenset[str] = frozenset()
        refused = self._refused(offered)
        taken = tuple(r for r in offered if r not in refused)
        match ENDINGS[self.ending]:
            case Accepted() as accepted:
                return replace(accepted, recipients=taken, refused=refused), frozenset(taken)
            case OutcomeUnknown() as unknown:
                return unknown, frozenset(taken) if self.ending == "taken, then cut" else none
            case refusal:
                return refusal, none

    def _refused(self, offered: Collection[str]) -> dict[str, TransientRefusal | PermanentRefusal]:
        return {r: REFUSALS[self.refuses[r]] for r in offered if r in self.refuses}


def _all_refused(refused: Mapping[str, TransientRefusal | PermanentRefusal]) -> Outcome:
    """As in mailer.transports.conversation: mixed refusals are retried."""
    mildest = min(refused.values(), key=lambda refusal: refusal.code)
    for_good = {r: refusal for r, refusal in refused.items() if isinstance(refusal, PermanentRefusal)}
    return mildest if len(refused) == 1 else replace(mildest, refused=for_good)


# Processes and actors.


class Process:
    """A process with a memory, a heartbeat and a clock of its own. Its actors are its threads."""

    def __init__(self, host: str) -> None:
        self.memory: dict[str, Any] = {}
        self.clock_error = 0.0
        """Seconds that its own clock is ahead."""
        self.is_stopped = self.is_dead = False
        self.silent_since: datetime | None = None
        """When it stopped or died, until it beats again."""
        with self.running():
            heartbeat.renew()
            heartbeat.role = Role.WORKER
            heartbeat.host, heartbeat.queues = host, tuple(map(str, Queue))
            self.worker = heartbeat.worker

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run code as this process: it has the heartbeat of this process."""
        others, heartbeat.__dict__ = heartbeat.__dict__, self.memory
        try:
            yield
        finally:
            heartbeat.__dict__ = others


class Actor(greenlet):  # type: ignore[misc]
    """Run a function of the product in a process, and stop wherever another actor may interleave."""

    def __init__(self, process: Process, work: Callable[..., object], *args: Any) -> None:
        super().__init__(self._work)
        self.process = process
        self.work = work, args
        self.is_killed = False
        self.fails_in: int | None = None
        """The number of statements until the database does not answer this actor."""
        self.wakes_at = BEGAN
        self.at = ""
        """The name of the place where it stopped: one of PLACES, or empty."""

    def _work(self) -> None:
        work, args = self.work
        try:
            work(*args)
        except OperationalError as error:
            if str(error) != AWAY:  # otherwise the task is tried again, or the next round of housekeeping does it
                raise

    def kill(self) -> None:
        """Do not let it do anything any more, as `finally` would."""
        self.is_killed = True
        self.throw()

    def fail_if_due(self) -> None:
        """Raise what a dead process, or one without its database, gets instead of an answer."""
        if self.is_killed:
            raise GreenletExit
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise OperationalError(AWAY)


AWAY = "the connection was closed"


def me() -> Actor | None:
    current = getcurrent()
    return current if isinstance(current, Actor) else None


def stop(at: str = "") -> None:
    """Let other actors run first, except inside a transaction, whose effects they could not see."""
    actor = me()
    if actor and not actor.is_killed and not connection.in_atomic_block:
        assert actor.parent is not None
        actor.at = at
        actor.parent.switch()


class StoppingAtomic(transaction.Atomic):
    """Replace Django's `Atomic`: stop before each transaction."""

    def __enter__(self) -> None:
        stop()
        if actor := me():
            actor.fail_if_due()
        super().__enter__()


# What is checked.


@dataclass
class Attempt:
    """What really happened in an attempt, and what is recorded about it so far."""

    process: Process
    actor: Actor
    offered: frozenset[str]
    counted_after: int
    lease_ends: datetime
    outcome: Outcome | None = None
    got_it: frozenset[str] = frozenset()
    recorded: Recorded = Recorded.PENDING
    was_uncertain: bool = False

    def may_be_recorded_as(self, now: datetime) -> set[Recorded]:
        """Return what the server said; and uncertain, once its process was silent or the lease has ended."""
        said = _recorded(self.outcome) if self.outcome else set()
        silent = self.process.silent_since
        is_abandoned = self.lease_ends < now or self.process.is_dead or (silent and now - silent >= SILENCE)
        return said | {Recorded.UNCERTAIN} if is_abandoned else said

    def refused_for_good(self) -> frozenset[str]:
        if isinstance(self.outcome, PermanentRefusal) and not self.outcome.refused:
            return self.offered
        refused = getattr(self.outcome, "refused", {})
        return frozenset(r for r, refusal in refused.items() if isinstance(refusal, PermanentRefusal))


def _recorded(outcome: Outcome) -> set[Recorded]:
    """Return how an outcome may be recorded. Whose fault a refusal is has tests of its own."""
    match outcome:
        case Accepted():
            return {Recorded.PARTLY_ACCEPTED if outcome.refused else Recorded.ACCEPTED}
        case TransientRefusal() | TransportDown():
            return {Recorded.REFUSED_FOR_NOW, Recorded.TRANSPORT_DOWN}
        case PermanentRefusal():
            return {Recorded.REFUSED_FOR_NOW, Recorded.TRANSPORT_DOWN, Recorded.REFUSED_FOR_GOOD}
        case OutcomeUnknown():
            return {Recorded.UNCERTAIN}
        case Interrupted():
            return {Recorded.INTERRUPTED}
        case _:
            assert_never(outcome)


class Trace:
    """What really happened to a message. Its row is compared with this after every statement."""

    def __init__(self, row: Message) -> None:
        self.row = row
        self.hold = row.kind == Certificate.kind
        self.recipients = frozenset({row.recipient, *row.arguments["copies"]})
        self.attempts: list[Attempt] = []
        self.decided: set[str] = set()
        """The names of the functions that people called for it."""
        self.skipped: frozenset[str] = frozenset()
        """Recipients who were suppressed when it was transmitted to the others."""
        self.acknowledged: frozenset[str] = frozenset()
        """Recipients that got it according to the record."""
        self.told: list[tuple[str, datetime | None]] = []
        """The states that its receivers were told, and when it was settled."""

    def begin(self, actor: Actor, row: Message, offered: frozenset[str], now: datetime) -> Attempt:
        """Begin an attempt: an actor has claimed it and is about to transmit it."""
        before = self.row
        assert before.state in WAITING
        assert before.due_at <= now
        assert before.expires_at is None or now < before.expires_at
        assert before.worker == row.worker == actor.process.worker, "another worker has reserved it"
        assert not offered & self.acknowledged, "they got it according to the record"
        self.skipped |= self.recipients - offered - before.answers.keys()
        attempt = Attempt(actor.process, actor, offered, before.counted_after, now + claim.LEASE)
        self.attempts.append(attempt)
        return attempt

    def update(self, row: Message, world: "AnyOrder") -> None:
        """Check the row after one statement or transaction of an actor."""
        before, self.row = self.row, row
        self._check_transition(State(before.state))
        self._check_reservation(before, world)
        self._check_attempts(list(row.delivery_attempts.all()), world.now)
        self._check_answers()
        self._check_copies()
        self._check_state(State(before.state), world)

    def _check_transition(self, before: State) -> None:
        now = State(self.row.state)
        assert now == before or before in SOURCES[now], f"{before} → {now}"
        assert (now in SETTLED) == (self.row.settled_at is not None)
        assert self.row.worker is None or now in (*WAITING, State.SENDING)

    def _check_reservation(self, before: Message, world: "AnyOrder") -> None:
        """Only a worker itself, or the settling of a message, ends a reservation while its worker is heard."""
        if before.worker not in (None, self.row.worker) and before.state in WAITING and self.row.state in WAITING:
            by_itself = world.acting is not None and world.acting.worker == before.worker
            assert by_itself or world.is_silent(before.worker), "a living worker has it in hand"

    def _check_attempts(self, rows: list[DeliveryAttempt], now: datetime) -> None:
        """A claim ends when its worker settles it or has fallen silent, so there is one at a time."""
        assert self.row.attempts == len(self.attempts)
        assert [row.number for row in rows] == list(range(1, len(self.attempts) + 1))
        sending = self.row.state == State.SENDING
        assert self.row.claimed_until == (self.attempts[-1].lease_ends if sending else None)
        for attempt, row in zip(self.attempts, rows, strict=True):
            assert (row.outcome == Recorded.PENDING) == (sending and row.number == len(rows))
            if row.outcome != attempt.recorded:
                assert attempt.recorded in (Recorded.PENDING, Recorded.UNCERTAIN), "what a server said is final"
                assert row.outcome in attempt.may_be_recorded_as(now), "its worker lives, or the server said otherwise"
            attempt.recorded = Recorded(row.outcome)
            attempt.was_uncertain |= attempt.recorded == Recorded.UNCERTAIN

    def _check_answers(self) -> None:
        answers = self.row.answers
        noted = [frozenset(r for r in answers if answers[r] == ACCEPTED)]
        noted += [attempt.offered for attempt in self.attempts if attempt.recorded == Recorded.ACCEPTED]
        before, self.acknowledged = self.acknowledged, frozenset().union(*noted)
        assert before <= self.acknowledged <= self.got_it()
        assert all(any(r in a.refused_for_good() for a in self.attempts) for r in answers if answers[r] == REFUSED)

    def got_it(self) -> frozenset[str]:
        return frozenset().union(*(attempt.got_it for attempt in self.attempts))

    def _check_copies(self) -> None:
        """A copy follows an uncertain attempt if it does no harm, or the decision of a person.

        So a recipient gets at most one mail, one for each uncertain attempt, and one for each decision.
        """
        for (number, one), (_, other) in combinations(enumerate(self.attempts, 1), 2):
            if one.got_it & other.got_it:
                assert number <= other.counted_after or (one.was_uncertain and not self.hold)

    def _check_state(self, before: State, world: "AnyOrder") -> None:
        row, wanted = self.row, self.recipients - self.skipped
        if wanted <= self.acknowledged:
            assert row.state in (State.SENT, State.SENDING, State.CANCELLED), "all recipients got it"
        if row.state == before:
            return
        match State(row.state):
            case State.SENT:
                assert wanted <= self.got_it() or "mark_as_delivered" in self.decided
            case State.HELD:
                is_uncertain = self.hold and self.attempts[-1].was_uncertain
                assert is_uncertain or (row.reason.startswith("quarantined") and world.deaths >= reserve.QUARANTINE)
            case State.FAILED:
                is_refused = any(attempt.refused_for_good() for attempt in self.attempts)
                assert row.expires_at or is_refused or self._was_not_built(world.now)
            case State.EXPIRED:
                assert row.expires_at
                assert row.expires_at <= world.now
            case State.SUPPRESSED:
                assert wanted - row.answers.keys(), "no recipient was left to be suppressed"
            case State.CANCELLED:
                assert "cancel_all" in self.decided

    def _was_not_built(self, now: datetime) -> bool:
        since = self.row.troubled_since
        return since is not None and now - since >= preparing.BUILDING


# Events.

WORKERS = ("worker 1", "worker 2", "worker 3")
HOSTS = dict(zip(WORKERS, ("alpha", "alpha", "beta"), strict=True))
THREADS = [f"{worker}, {thread}" for worker in WORKERS for thread in ("thread 1", "thread 2")]
OPERATORS = ("operator 1", "operator 2")
DECISIONS: dict[str, tuple[State, ...]] = {
    "retry": (State.HELD, State.FAILED),
    "mark_as_delivered": (State.HELD,),
    "cancel_all": (State.HELD, State.RETRYING),
}
REQUESTS = st.builds(
    Request,
    kind=st.sampled_from([Notice, Certificate]),
    to=st.sampled_from([ANN, BOB]),
    copies=st.sampled_from([(), (), (CID,), (CID, DEE)]),
    key=st.sampled_from(["", "a key"]),
    delay=st.sampled_from([0, 0, 0, 0, 0, 30, 4000]),
    lifetime=st.sampled_from([*[None] * 6, 20, 100, 5000]),
)
SERVERS = st.builds(
    Server,
    st.dictionaries(st.sampled_from([ANN, BOB, CID, DEE]), st.sampled_from(list(REFUSALS)), max_size=2),
    st.sampled_from([*ENDINGS, "taken", "taken", "taken, then cut", "taken, then cut"]),
    st.sampled_from([*CONNECTS, *["yes"] * 8]),
)
WHICH = st.sampled_from([0, 0, 0, 1, 2, 3])
"""Chooses one of the possible messages, processes or actors."""
PLACES = ("connect", "MAIL", "dot", "answer")
"""Where an actor stops before it connects, before MAIL, before the final dot, and before it sees the answer."""
TO_THE_END = 999
STOPS: st.SearchStrategy[int | str] = st.sampled_from([*[TO_THE_END] * 6, *range(1, 8), *PLACES])
"""How far an actor gets in its turn: to a place, or so many stops."""


@dataclass(frozen=True)
class Turn:
    """An event: a method of AnyOrder, and its arguments."""

    what: str
    how: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{self.what}({', '.join(f'{name}={value!r}' for name, value in self.how.items())})"


def turn(name: str, weight: int, /, **how: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Turn]]:
    return [st.builds(Turn, st.just(name), st.fixed_dictionaries(how))] * weight


TURNS = st.sampled_from(
    [
        *turn("delivers", 8, who=st.sampled_from(THREADS), which=WHICH, stops=STOPS, server=SERVERS),
        *turn("delivers_due", 2, who=st.sampled_from(THREADS), stops=STOPS, server=SERVERS),
        *turn("resumes", 6, which=WHICH, stops=STOPS, server=SERVERS),
        *turn("time_passes", 3, seconds=st.sampled_from([3, 11, 11, 61, 700, 4000])),
        *turn("sweeps", 4, who=st.sampled_from(WORKERS), stops=STOPS),
        *turn("stops", 2, which=WHICH, seconds=st.sampled_from([0, 11, 61])),
        *turn("wakes", 2, which=WHICH, beats_first=st.booleans()),
        *turn("dies", 2, which=WHICH),
        *turn("database_is_away", 1, seconds=st.sampled_from([3, 20]), statements=st.integers(0, 6)),
        *turn("clock_jumps", 1, which=WHICH, seconds=st.sampled_from([86_400, -3600, 0])),
        *turn("application_fails", 1, what=st.sampled_from([*FAULTS]), fails=st.booleans()),
        *turn("calls_receivers", 1, who=st.sampled_from(THREADS), stops=STOPS),
        *turn("decides", 2, who=st.sampled_from(OPERATORS), which=WHICH, stops=STOPS),
        *turn("enqueues", 4, request=REQUESTS, commits=st.booleans()),
        *turn("sends_another", 1, which=WHICH),
        *turn("lifts_suppressions", 1),
    ]
).flatmap(lambda strategy: strategy)


class AnyOrder(RuleBasedStateMachine):
    """At its turn a busy actor resumes its work; an idle one begins with the event."""

    def __init__(self) -> None:
        super().__init__()
        for model in (Message, Suppression, TransportState, Circuit, Worker):
            model.objects.all().delete()
        self.traces: list[Trace] = []
        self.busy: dict[str, Actor] = {}
        self.tasks: list[tuple[str, Any]] = []
        self.server = Server()
        self.deaths = 0
        self.now = BEGAN
        self.acting: Process | None = None
        """The process that works at this moment."""
        FAULTS.update(building=False, receivers=False)
        self._heard: dict[UUID, datetime] = {}
        self._written = self._broken = self._is_observing = False
        self._stack = ExitStack()
        self._wall = self._stack.enter_context(time_machine.travel(BEGAN, tick=False))
        self._patch(self._stack.enter_context(pytest.MonkeyPatch.context()))
        self.web = Process("web")
        self._set_clocks()
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE test_history")
        self._stack.enter_context(connection.execute_wrapper(self._stop_and_execute))
        signals.message_settled.connect(self._note_settled, weak=False)
        self._stack.callback(signals.message_settled.disconnect, self._note_settled)
        self.processes = {name: Process(HOSTS[name]) for name in WORKERS}
        self._pass(1)

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=lambda: (self.now - BEGAN).total_seconds() + 1000, sleep=self._sleep)
        for module in (pipeline, reserve, settle, heartbeats):
            patch.setattr(module, "time", clock)
        patch.setattr(transaction, "Atomic", StoppingAtomic)
        patch.setattr(pipeline, "connect", self._connect)
        patch.setattr(pipeline, "transmit", self._transmit)
        for module in (settle, signals):
            patch.setattr(module, "connection", _Unclosed())
        for name in ("publish", "kick", "kick_if_idle", "publish_receivers"):
            patch.setattr(broker, name, partial(self._publish, name))

    @initialize(requests=st.lists(REQUESTS, min_size=1, max_size=2), all_die=st.booleans())
    def begin(self, requests: list[Request], all_die: bool) -> None:
        self.all_die_at_the_end = all_die
        for request in requests:
            self.enqueues(request, commits=True)

    @rule(turns=st.lists(TURNS, min_size=TOGETHER, max_size=TOGETHER))
    def take_turns(self, turns: list[Turn]) -> None:
        for turn in turns:
            getattr(self, turn.what)(**turn.how)

    # Turns.

    def enqueues(self, request: Request, commits: bool) -> None:
        if len(self.those(*UNSETTLED)) >= MOST:
            return
        there, tasks = len(self.traces), list(self.tasks)
        namesakes = [
            trace.row.pk
            for trace in self.those(*UNSETTLED)
            if trace.row.key == request.key != "" and self._holds_key(trace)
        ]
        with transaction.atomic():
            message = request.enqueue()
            transaction.set_rollback(not commits)
        self._check_rows()
        if commits and not namesakes:
            assert len(self.traces) == there + 1
            assert (len(self.tasks) > len(tasks)) == (request.delay <= HORIZON.total_seconds())
        else:
            assert (len(self.traces), self.tasks) == (there, tasks)
            assert not namesakes or namesakes == [message.pk]

    def _holds_key(self, trace: Trace) -> bool:
        """A row that will not be sent any more holds no key."""
        ends = trace.row.expires_at
        return trace.row.state not in WAITING or ends is None or ends > self.now

    def delivers(self, who: str, which: int, stops: int | str, server: Server) -> None:
        """Deliver a due message, whether the broker lost its task or delivers it again."""
        self.server = server
        if who in self.busy:
            self._resume(who, stops)
        elif trace := self._pick(self.those(*WAITING), which):
            self._pass(max((trace.row.due_at - self.now).total_seconds(), 0))
            self._resume(who, stops, pipeline.deliver, trace.row.pk)

    def delivers_due(self, who: str, stops: int | str, server: Server) -> None:
        self.server = server
        self._resume(who, stops, pipeline.deliver_due, list(Queue))

    def resumes(self, which: int, stops: int | str, server: Server) -> None:
        self.server = server
        if who := self._pick(list(self.busy), which):
            self._resume(who, stops)

    def sweeps(self, who: str, stops: int | str) -> None:
        self._resume(f"{who}, housekeeping", stops, _beat_and_sweep)

    def calls_receivers(self, who: str, stops: int | str) -> None:
        """Run a task that the broker delivers late, or again."""
        if due := [trace.row.pk for trace in self.traces if trace.row.notify_at]:
            self._resume(who, stops, signals.call_receivers, due[-1])

    def time_passes(self, seconds: float) -> None:
        self._pass(seconds)
        self._check_explanations()

    def database_is_away(self, seconds: float, statements: int) -> None:
        """The database does not answer for a while, and so hears no heartbeat. Every connection breaks."""
        for actor in self.busy.values():
            actor.fails_in = statements
        self.now += timedelta(seconds=seconds)
        self._set_clocks()

    def stops(self, which: int, seconds: float) -> None:
        """SIGSTOP, or a blocked log pipe: nothing in the process runs."""
        if process := self._pick([self.processes[each] for each in self._busiest()], which):
            process.is_stopped = True
            process.silent_since = process.silent_since or self.now
            self._pass(seconds)

    def wakes(self, which: int, beats_first: bool) -> None:
        """It goes on where it was. Its heartbeat may be the first thing that does."""
        if process := self._pick([each for each in self.processes.values() if each.is_stopped], which):
            process.is_stopped = False
            if beats_first:
                self._beat(process)
                self._check_rows()

    def dies(self, which: int) -> None:
        """A process dies, wherever its threads are, and another one starts."""
        self._kill(self._busiest()[which % len(WORKERS)])

    def _busiest(self) -> list[str]:
        """Return the workers, those with the most busy threads first."""
        threads = Counter(who.partition(",")[0] for who in self.busy)
        return sorted(WORKERS, key=lambda worker: -threads[worker])

    def clock_jumps(self, which: int, seconds: float) -> None:
        self.processes[WORKERS[which % len(WORKERS)]].clock_error = seconds

    def application_fails(self, what: str, fails: bool) -> None:
        FAULTS[what] = fails

    def decides(self, who: str, which: int, stops: int | str) -> None:
        possible = [(what, trace) for what, states in DECISIONS.items() for trace in self.those(*states)]
        if possible:
            self._resume(who, stops, self._decide, *possible[which % len(possible)])

    def _decide(self, what: str, trace: Trace) -> None:
        trace.decided.add(what)
        getattr(outbox, what)(Message.objects.filter(pk=trace.row.pk), reason="an operator")

    def sends_another(self, which: int) -> None:
        trace = self._pick(self.those(*SETTLED), which)
        if len(self.those(*UNSETTLED)) >= MOST or not trace:
            return
        message = outbox.resend(trace.row)
        assert message.message_id_header != trace.row.message_id_header
        self._check_rows()

    def lifts_suppressions(self) -> None:
        Suppression.objects.all().delete()

    # The end.

    def teardown(self) -> None:
        try:
            if not self._broken:
                self._check_all_settles()
                self._check_history()
        finally:
            for actor in self.busy.values():
                actor.kill()
            self._stack.close()

    def _check_all_settles(self) -> None:
        """All processes die or finish, the broker comes back empty, the server takes everything: every message is settled."""
        FAULTS.update(building=False, receivers=False)
        self.server = Server()
        for name in WORKERS:
            if self.all_die_at_the_end:
                self._kill(name)
            self.processes[name].is_stopped = False
        for who in list(self.busy):
            self._resume(who, TO_THE_END)
        self.tasks.clear()
        for _ in range(12):
            self._pass(4000)
            for who in WORKERS:
                self._resume(f"{who}, housekeeping", TO_THE_END, _beat_and_sweep)
                self._run_tasks(f"{who}, thread 1")
            if not any(trace.row.notify_at for trace in self.traces) and not self.those(*WAITING, State.SENDING):
                break
        assert not self.those(*WAITING, State.SENDING)
        self._check_everybody_was_told()
        self._pass((options().retention_days + 1) * 86400)
        assert retention.purge() == len(self.those(*SETTLED))
        assert Message.objects.count() == len(self.those(State.HELD))

    def _run_tasks(self, who: str) -> None:
        while self.tasks:
            name, what = self.tasks.pop()
            match name:
                case "publish":
                    self._resume(who, TO_THE_END, pipeline.deliver, what.pk)
                case "publish_receivers":
                    for pk in what:
                        self._resume(who, TO_THE_END, signals.call_receivers, pk)
                case _:
                    self._resume(who, TO_THE_END, pipeline.deliver_due, [what])

    def _check_everybody_was_told(self) -> None:
        for trace in self.those(*SETTLED):
            row = trace.row
            assert row.settled_at
            if self.now - row.settled_at < signals.PATIENCE:
                assert (row.state, row.settled_at) in trace.told, "no receiver was told"

    def _check_history(self) -> None:
        with connection.cursor() as cursor:
            assert history.violations(history.read(cursor)) == []

    def _check_explanations(self) -> None:
        """Each message says why it waits, and until when."""
        seen = pulse.look()
        for trace in self.traces:
            explanation = explain.explain(trace.row, seen)
            assert explanation.sentence
            if trace.row.state in WAITING and trace.row.due_at > self.now:
                assert explanation.until == trace.row.due_at
            assert (trace.row.state == State.HELD) <= explanation.is_stuck

    # How it runs.

    def is_silent(self, worker: UUID | None) -> bool:
        """Whether the database has not heard a worker for so long that it counts as dead."""
        heard = self._heard.get(worker) if worker else None
        return heard is None or heard <= self.now - SILENCE

    def _kill(self, name: str) -> None:
        process = self.processes[name]
        for who in [who for who, actor in self.busy.items() if actor.process is process]:
            self.busy.pop(who).kill()
            self.deaths += 1
        process.is_dead = True
        self.processes[name] = Process(HOSTS[name])
        self._beat(self.processes[name])
        self._check_rows()

    def those(self, *states: State) -> list[Trace]:
        return [trace for trace in self.traces if trace.row.state in states]

    def _pick[T](self, those: list[T], which: int) -> T | None:
        return those[which % len(those)] if those else None

    def _resume(self, who: str, stops: int | str, *work: Any) -> None:
        """Resume this actor, or let it begin this work."""
        process = self.processes.get(who.partition(",")[0], self.web)
        if process.is_stopped or (who not in self.busy and not work):
            return
        actor = self.busy.setdefault(who, Actor(process, *work)) if work else self.busy[who]
        for _ in range(stops if isinstance(stops, int) else TO_THE_END):
            self._pass(max((actor.wakes_at - self.now).total_seconds(), 0))
            self.acting = process
            self._wall.shift(process.clock_error)
            with process.running():
                actor.switch()
            self._wall.shift(-process.clock_error)
            self._check_rows()
            self.acting = None
            if actor.dead:
                del self.busy[who]
                self._check_attempts_of(actor)
            if actor.dead or actor.at == stops:
                return

    def _check_rows(self) -> None:
        """Check every row after every statement that changed one."""
        if not self._written:
            return
        self._written, self._broken = False, True
        rows = list(Message.objects.order_by("pk").prefetch_related("delivery_attempts"))
        self.traces += [Trace(row) for row in rows[len(self.traces) :]]
        for trace, row in zip(self.traces, rows, strict=True):
            trace.update(row, self)
        keys = Counter(row.key for row in rows if row.key and row.state in UNSETTLED)
        assert set(keys.values()) <= {1}
        self._note_heartbeats()
        self._broken = False

    def _note_heartbeats(self) -> None:
        heard = dict(Worker.objects.values_list("pk", "seen_at"))
        for process in self.processes.values():
            if heard.get(process.worker) != self._heard.get(process.worker) and not process.is_stopped:
                process.silent_since = None
        self._heard = heard

    def _check_attempts_of(self, actor: Actor) -> None:
        for attempt in (attempt for trace in self.traces for attempt in trace.attempts if attempt.actor is actor):
            assert attempt.outcome
            assert attempt.recorded in _recorded(attempt.outcome), "the server's answer was not recorded"

    def _pass(self, seconds: float) -> None:
        """Let time pass, in which all processes beat that do not stand still."""
        if not seconds:
            return
        good = [process for process in self.processes.values() if self._is_good(process)]
        self.now += timedelta(seconds=seconds)
        self._set_clocks()
        for process in self.processes.values():
            if process in good and not process.is_stopped:  # it has beaten in the meantime
                process.memory["_last"] = (self.now - BEGAN).total_seconds() + 1000 - EVERY
            if not process.is_stopped:
                self._beat(process)
        self._check_rows()

    def _is_good(self, process: Process) -> bool:
        with process.running():
            return heartbeat.is_good()

    def _beat(self, process: Process) -> None:
        with process.running():
            heartbeat.beat()

    def _set_clocks(self) -> None:
        self._wall.move_to(self.now)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('clock.now', %s, false)", [self.now.isoformat()])

    # What the product calls.

    def _stop_and_execute(self, execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if not self._is_observing:
            stop()
            if actor := me():
                actor.fail_if_due()
        self._written |= not sql.startswith("SELECT")
        return execute(sql, *args)

    def _sleep(self, seconds: float) -> None:
        if actor := me():
            actor.wakes_at = self.now + timedelta(seconds=seconds)
        stop()

    def _connect(self, alias: str, **_: object) -> Any:
        stop("connect")
        return CONNECTS[self.server.connects] or SimpleNamespace(release=lambda: None)

    def _transmit(
        self, _: object, mail: EmailMessage, *, number: int, exclude: Collection[str], guard: Callable[[], None]
    ) -> Outcome:
        """Take the message, as slowly as the turns want, and do with it what the server does."""
        actor, header = me(), mail.extra_headers["Message-ID"]
        assert actor
        [trace] = [trace for trace in self.traces if trace.row.message_id_header == header]
        assert trace.row.pk == number
        offered = frozenset(r for r in map(addresses.as_transmitted, mail.recipients()) if r not in exclude)
        assert not self.is_silent(actor.process.worker), "claimed by a worker that counts as dead"
        assert not self._is_suppressed(trace.row.recipient) or trace.row.recipient not in offered
        attempt = trace.begin(actor, self._row(trace), offered, self.now)
        attempt.outcome = self._converse(trace, attempt, guard)
        return attempt.outcome

    def _converse(self, trace: Trace, attempt: Attempt, guard: Callable[[], None]) -> Outcome:
        number, must_end = len(trace.attempts), self.now + LONGEST_CONVERSATION
        try:
            stop("MAIL")
            guard()
            if answer := self.server.answer_before_the_dot(attempt.offered):
                return answer
            stop("dot")
            if self.now > must_end:
                return TransportDown("", "timed out", Phase.DATA)
            guard()
        except Stop as reason:
            return Interrupted(str(reason))
        row = self._row(trace)
        mine = (State.SENDING, number, attempt.process.worker)
        assert (row.state, row.attempts, row.worker) == mine, "transmitted after its claim had ended"
        assert row.expires_at is None or self.now < row.expires_at, "transmitted after its deadline"
        outcome, attempt.got_it = self.server.receive(attempt.offered)
        stop("answer")
        return outcome

    def _row(self, trace: Trace) -> Message:
        with self._observing():
            return Message.objects.get(pk=trace.row.pk)

    def _is_suppressed(self, address: str) -> bool:
        with self._observing():
            return Suppression.objects.filter(address=address).exists()

    @contextmanager
    def _observing(self) -> Iterator[None]:
        """Ask the database without a stop."""
        self._is_observing = True
        try:
            yield
        finally:
            self._is_observing = False

    def _publish(self, name: str, what: Any, *_: object) -> bool:
        self.tasks.append((name, what))
        return True

    def _note_settled(self, message: Message, **_: object) -> None:
        [trace] = [trace for trace in self.traces if trace.row.pk == message.pk]
        assert (trace.row.state, trace.row.settled_at) == (message.state, message.settled_at), (
            "called before the commit"
        )
        if FAULTS["receivers"]:
            raise RuntimeError("a receiver of the application failed")
        trace.told.append((message.state, message.settled_at))


class _Unclosed:
    """The connection, which the whole world shares: a worker that closes its own closes nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(connection, name)

    def close(self) -> None:
        pass


def _beat_and_sweep() -> None:
    """Do what the housekeeping of a worker does, whether it is its turn or not."""
    heartbeat.beat()
    sweep.sweep()


@pytest.fixture
def still_clock(transactional_db: None) -> Iterator[None]:
    """Replace PostgreSQL's clock on this connection by one that stands still until it is set."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA clock")
        for function in ("now", "statement_timestamp", "clock_timestamp"):
            cursor.execute(
                f"CREATE FUNCTION clock.{function}() RETURNS timestamptz STABLE"
                " RETURN current_setting('clock.now')::timestamptz"
            )
        cursor.execute("SET search_path TO clock, pg_catalog, public")
        cursor.execute(history.INSTALL)
        yield
        cursor.execute(history.REMOVE)
        cursor.execute("RESET search_path")
        cursor.execute("DROP SCHEMA clock CASCADE")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Disable the log, which takes a third of the time."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def two_users(still_clock: None, quiet: None) -> None:
    for address in (ANN, BOB):
        User.objects.create_user(address)


@pytest.mark.usefixtures("two_users")
def test_promises_hold_in_any_order_of_events() -> None:
    run_state_machine_as_test(
        AnyOrder,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=max(STEPS // TOGETHER, 1),
            derandomize=not IS_LONG,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


# Orders that are rare among random ones.

FIRST, OTHER_THREAD, SECOND = "worker 1, thread 1", "worker 1, thread 2", "worker 2, thread 1"
TAKES, LATER = Server(), Server(ending="later")


@contextmanager
def world(kind: type[Notice] = Notice, *, lifetime: float | None = None) -> Iterator[AnyOrder]:
    """Begin with one message. At the end all is settled and checked, as after random turns."""
    world = AnyOrder()
    try:
        world.begin([Request(kind, ANN, (), "", 0, lifetime)], all_die=False)
        yield world
    except BaseException:
        world._broken = True
        raise
    finally:
        world.teardown()


@pytest.mark.usefixtures("two_users")
def test_a_worker_that_wakes_up_late_goes_on_only_if_its_message_is_still_its_own() -> None:
    for place, beats_first, server in product(PLACES, [True, False], [TAKES, LATER]):
        with world() as w:
            w.delivers(FIRST, 0, place, server)
            w.stops(0, 11)
            w.sweeps("worker 2", TO_THE_END)
            w.delivers(SECOND, 0, "answer" if server is LATER else "connect", TAKES)
            w.wakes(0, beats_first)
            for _ in range(2):
                w.resumes(0, TO_THE_END, server)


@pytest.mark.usefixtures("two_users")
def test_a_message_of_which_a_copy_would_do_harm_is_held_and_not_sent_by_a_worker_that_wakes_up() -> None:
    for place, beats_first in product(PLACES, [True, False]):
        with world(Certificate) as w:
            w.delivers(FIRST, 0, place, TAKES)
            w.stops(0, 11)
            w.sweeps("worker 2", TO_THE_END)
            assert len(w.those(State.HELD)) == (place != "connect")
            w.wakes(0, beats_first)
            w.resumes(0, TO_THE_END, TAKES)
            assert len(w.those(State.SENT)) == (place == "answer" or (place == "connect" and beats_first))


@pytest.mark.usefixtures("two_users")
def test_a_thread_that_has_an_old_row_in_hand_claims_nothing() -> None:
    with world() as w:
        w.delivers(FIRST, 0, "connect", TAKES)
        w.stops(0, 11)
        w.delivers(SECOND, 0, TO_THE_END, LATER)
        w.wakes(0, True)
        w.time_passes(30)
        w.delivers(OTHER_THREAD, 0, "connect", TAKES)
        w.resumes(0, TO_THE_END, TAKES)
        w.resumes(0, TO_THE_END, TAKES)


@pytest.mark.usefixtures("two_users")
def test_no_claim_is_given_away_when_the_database_is_back() -> None:
    with world(Certificate) as w:
        w.delivers(FIRST, 0, "answer", TAKES)
        w.database_is_away(20, statements=0)
        w.sweeps("worker 2", TO_THE_END)
        w.time_passes(3)
        w.sweeps("worker 2", TO_THE_END)
        w.resumes(0, TO_THE_END, TAKES)
        assert len(w.those(State.SENT)) == 1


@pytest.mark.usefixtures("two_users")
def test_a_sweep_that_found_a_silent_worker_looks_again_before_it_gives_its_claim_away() -> None:
    for statements in range(1, 6):
        with world(Certificate) as w:
            w.delivers(FIRST, 0, "answer", TAKES)
            w.stops(0, 11)
            w.sweeps("worker 2", statements)
            w.wakes(0, True)
            w.resumes(1, TO_THE_END, TAKES)
            w.resumes(0, TO_THE_END, TAKES)
            assert len(w.those(State.SENT)) == 1


@pytest.mark.usefixtures("two_users")
def test_nothing_is_sent_after_its_deadline() -> None:
    for place in PLACES:
        with world(lifetime=20) as w:
            w.delivers(FIRST, 0, place, TAKES)
            w.time_passes(30)
            w.resumes(0, TO_THE_END, TAKES)
            w.delivers(FIRST, 0, TO_THE_END, TAKES)
            assert len(w.those(State.EXPIRED)) == (place != "answer")


@pytest.mark.usefixtures("two_users")
def test_receivers_are_called_if_their_process_dies_after_the_commit() -> None:
    with world() as w:
        w.delivers(FIRST, 0, "answer", TAKES)
        while not w.those(State.SENT):
            w.resumes(0, 1, TAKES)
        assert not w.traces[0].told
        w.dies(0)


@pytest.mark.usefixtures("two_users")
def test_an_address_that_is_suppressed_meanwhile_gets_nothing() -> None:
    with world() as w:
        w.delivers(FIRST, 0, "connect", TAKES)
        Suppression.objects.create(address=ANN, reason="unknown")
        w.resumes(0, TO_THE_END, TAKES)
        assert len(w.those(State.SUPPRESSED)) == 1


@pytest.mark.usefixtures("two_users")
def test_a_message_that_was_dropped_when_the_database_was_away_is_taken_again() -> None:
    with world() as w:
        w.delivers(FIRST, 0, 2, TAKES)
        w.database_is_away(3, statements=0)
        w.resumes(0, TO_THE_END, TAKES)
        w.delivers(FIRST, 0, TO_THE_END, TAKES)
        assert len(w.those(State.SENT)) == 1
