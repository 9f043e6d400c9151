"""Workers, sweeps and people interleave at any two statements, workers die or come back late, the broker loses tasks, the mail
server answers anything; after every statement all promises are checked.

The product's functions run on a real PostgreSQL, each in a greenlet that stops before every statement and transaction. The
mail server, the broker and the clock (of Python and PostgreSQL) are models: the server knows who really got each mail.

    EXAMPLES=2000 .venv/bin/python -m pytest tests/mailer/delivery/test_state_machine.py        # a long run; 25 otherwise
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any, ClassVar, assert_never

import hypothesis
import pytest
import time_machine
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.utils import timezone
from greenlet import getcurrent, greenlet
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pytest_django import Settings

from accounts.models import User
from mailer import addresses, outbox
from mailer.conf import options
from mailer.delivery import broker, claim, pipeline, retention, sweep
from mailer.email import WhenUncertain
from mailer.models import (
    ACCEPTED,
    REFUSED,
    SETTLED,
    SOURCES,
    UNSETTLED,
    WAITING,
    DeliveryAttempt,
    Message,
    Queue,
    State,
    Suppression,
    TransportState,
)
from mailer.models import Outcome as Recorded
from mailer.outcomes import Accepted, Outcome, OutcomeUnknown, PermanentRefusal, TransientRefusal, TransportDown
from tests.mailer.kinds import Shared

EXAMPLES = int(os.environ.get("EXAMPLES", "25"))
STEPS = 60

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(0),  # hypothesis takes minutes to shrink a failure
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),  # by killed actors
]

ANN, BOB, CID, DEE = "ann@example.com", "bob@example.com", "cid@example.com", "dee@example.com"


class Notice(Shared):
    """For several recipients, with or without a deadline."""

    lifetime: float | None = None

    def expires_at(self) -> datetime | None:
        return None if self.lifetime is None else timezone.now() + timedelta(seconds=self.lifetime)


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
    "later": TransientRefusal("451", "4.7.1 later"),
    "much later": TransientRefusal("451", "4.7.1 later", retry_after=timedelta(hours=2)),
    "never": PermanentRefusal("554", "5.7.1 no"),
    "unknown": PermanentRefusal("550", "5.1.1 no such user", address_unknown=True),
}
ENDINGS: dict[str, Outcome] = {
    "taken": Accepted("250", "2.0.0 Ok"),
    "taken, then cut": OutcomeUnknown("the payload was sent, then the connection broke"),
    "cut": OutcomeUnknown("the payload was sent, then the connection broke"),
    "down": TransportDown("421", "4.3.2 closed"),
    **{name: REFUSALS[name] for name in ("later", "much later", "never")},
}


@dataclass(frozen=True)
class Server:
    """The answers of the mail server to one message: it may refuse some recipients, and then answers the payload."""

    refuses: Mapping[str, str] = field(default_factory=dict)
    ending: str = "taken"

    def receive(self, offered: Collection[str]) -> tuple[Outcome, frozenset[str]]:
        """Return the answer, and the recipients that get the message."""
        none: frozenset[str] = frozenset()
        refused = {r: REFUSALS[self.refuses[r]] for r in offered if r in self.refuses}
        taken = tuple(r for r in offered if r not in refused)
        match ENDINGS[self.ending]:
            case TransportDown() as down:
                return down, none
            case _ if not taken:
                return _all_refused(refused), none
            case Accepted() as accepted:
                return replace(accepted, recipients=taken, refused=refused), frozenset(taken)
            case OutcomeUnknown() as unknown:
                return unknown, frozenset(taken) if self.ending == "taken, then cut" else none
            case refusal:
                return refusal, none


def _all_refused(refused: Mapping[str, TransientRefusal | PermanentRefusal]) -> Outcome:
    """As in mailer.transports.smtp: mixed refusals are retried."""
    mildest = min(refused.values(), key=lambda refusal: refusal.code)
    for_good = {r: refusal for r, refusal in refused.items() if isinstance(refusal, PermanentRefusal)}
    return mildest if len(refused) == 1 else replace(mildest, refused=for_good)


# Actors.


class Actor(greenlet):  # type: ignore[misc]
    """Run a function of the product, and stop wherever another actor may interleave."""


def stop() -> None:
    """Let other actors run first, except inside a transaction, whose effects they could not see."""
    me = getcurrent()
    if isinstance(me, Actor) and not connection.in_atomic_block:
        assert me.parent is not None
        me.parent.switch()


class StoppingAtomic(transaction.Atomic):
    """Replace Django's `Atomic`: stop before each transaction."""

    def __enter__(self) -> None:
        stop()
        super().__enter__()


# What is checked.


@dataclass
class Attempt:
    """What really happened in an attempt, and what is recorded about it so far."""

    worker: Actor
    offered: frozenset[str]
    counted_after: int
    lease_ends: datetime
    outcome: Outcome | None = None
    got_it: frozenset[str] = frozenset()
    recorded: Recorded = Recorded.PENDING
    was_uncertain: bool = False

    def may_be_recorded_as(self) -> set[Recorded]:
        """Return what the server said, and uncertain once the lease has run out."""
        said = {_recorded(self.outcome)} if self.outcome else set()
        return said | {Recorded.UNCERTAIN} if self.lease_ends < timezone.now() else said

    def refused_for_good(self) -> frozenset[str]:
        if isinstance(self.outcome, PermanentRefusal) and not self.outcome.refused:
            return self.offered
        refused = getattr(self.outcome, "refused", {})
        return frozenset(r for r, refusal in refused.items() if isinstance(refusal, PermanentRefusal))


def _recorded(outcome: Outcome) -> Recorded:
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


SPENT = (Recorded.REFUSED_FOR_NOW, Recorded.PARTLY_ACCEPTED, Recorded.UNCERTAIN)


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

    def begin(self, worker: Actor, offered: frozenset[str]) -> Attempt:
        """Begin an attempt: a worker has claimed it and is about to transmit it."""
        now = timezone.now()
        assert self.row.state in WAITING
        assert self.row.due_at <= now + claim.EARLY
        assert not offered & self.acknowledged, "they got it according to the record"
        self.skipped |= self.recipients - offered - self.row.answers.keys()
        attempt = Attempt(worker, offered, self.row.counted_after, now + options().claim_lease)
        self.attempts.append(attempt)
        return attempt

    def update(self, row: Message) -> None:
        """Check the row after one statement or transaction of an actor."""
        before, self.row = State(self.row.state), row
        self._check_transition(before)
        self._check_attempts(list(row.delivery_attempts.all()))
        self._check_answers()
        self._check_copies()
        self._check_limit()
        self._check_state(before)
        self._check_sweep_will_publish()

    def _check_transition(self, before: State) -> None:
        now = State(self.row.state)
        assert now == before or before in SOURCES[now], f"{before} → {now}"
        assert (now in SETTLED) == (self.row.settled_at is not None)

    def _check_attempts(self, rows: list[DeliveryAttempt]) -> None:
        """A claim ends when its worker settles it or its lease ends, so there is one at a time."""
        assert self.row.attempts == len(self.attempts)
        assert [row.number for row in rows] == list(range(1, len(self.attempts) + 1))
        sending = self.row.state == State.SENDING
        assert self.row.claimed_until == (self.attempts[-1].lease_ends if sending else None)
        for attempt, row in zip(self.attempts, rows, strict=True):
            assert (row.outcome == Recorded.PENDING) == (sending and row.number == len(rows))
            if row.outcome != attempt.recorded:
                assert attempt.recorded in (Recorded.PENDING, Recorded.UNCERTAIN), "what a server said is final"
                assert row.outcome in attempt.may_be_recorded_as()
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

    def _spent(self) -> int:
        return sum(attempt.recorded in SPENT for attempt in self.attempts[self.row.counted_after :])

    def _check_limit(self) -> None:
        assert self._spent() <= options().max_attempts

    def _check_state(self, before: State) -> None:
        row, wanted = self.row, self.recipients - self.skipped
        if wanted <= self.acknowledged:
            assert row.state in (State.SENT, State.SENDING, State.CANCELLED), "all recipients got it"
        if row.state == before:
            return
        match State(row.state):
            case State.SENT:
                assert wanted <= self.got_it() or "mark_as_delivered" in self.decided
            case State.HELD:
                assert self.hold
                assert self.attempts[-1].was_uncertain
            case State.FAILED if "which is the limit" in row.reason:
                assert self._spent() == options().max_attempts
            case State.FAILED:
                assert row.expires_at or any(attempt.refused_for_good() for attempt in self.attempts)
            case State.EXPIRED:
                assert row.expires_at
                assert row.expires_at <= timezone.now()
            case State.SUPPRESSED:
                assert wanted - row.answers.keys(), "no recipient was left to be suppressed"
            case State.CANCELLED:
                assert "cancel_all" in self.decided

    def _check_sweep_will_publish(self) -> None:
        """The sweep publishes it in time, however often it has done so before."""
        if self.row.state in WAITING:
            longest_pause = max(options().backoff_max, options().republish_after)
            in_time = self.row.due_at + options().republish_after
            assert self.row.publish_at <= max(in_time, timezone.now() + longest_pause)


# Events.

WORKERS, SWEEPS, OPERATORS = ("worker 1", "worker 2", "worker 3"), ("sweep 1", "sweep 2"), ("operator 1", "operator 2")
DECISIONS: dict[str, tuple[State, ...]] = {
    "retry": (State.HELD, State.FAILED),
    "mark_as_delivered": (State.HELD,),
    "cancel_all": (State.HELD, State.RETRYING),
}
REQUESTS = st.builds(
    Request,
    kind=st.sampled_from([Notice, Certificate]),
    to=st.sampled_from([ANN, BOB]),
    copies=st.sampled_from([(CID,), (), (CID, DEE)]),
    key=st.sampled_from(["", "a key"]),
    delay=st.sampled_from([0, 0, 0, 0, 0, 30, 4000]),
    lifetime=st.sampled_from([*[None] * 6, 100, 5000]),
)
SERVERS = st.builds(
    Server,
    st.dictionaries(st.sampled_from([ANN, BOB, CID, DEE]), st.sampled_from(list(REFUSALS)), max_size=2),
    st.sampled_from([*ENDINGS, "taken", "taken, then cut", "taken, then cut"]),
)
WHICH = st.integers(0, 1)
"""The index of one of the possible messages."""
TO_THE_END = 99
STOPS = st.sampled_from([*[TO_THE_END] * 5, 1, 2, 3, 4, 5, 6])
"""The number of stops before the turn of the next actor."""


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
        *turn("works", 8, who=st.sampled_from(WORKERS), which=WHICH, stops=STOPS, server=SERVERS),
        *turn("resumes", 4, which=WHICH, stops=STOPS, server=SERVERS),
        *turn(
            "time_passes",
            3,
            seconds=st.sampled_from([11, 61, 61, 4000]),
            sweeps=st.booleans(),
            broker_is_up=st.booleans(),
        ),
        *turn("decides", 2, who=st.sampled_from(OPERATORS), which=st.integers(0, 5), stops=STOPS),
        *turn(
            "sweeps",
            2,
            who=st.sampled_from(SWEEPS),
            what=st.sampled_from(["settle_abandoned", "publish_overdue"]),
            stops=STOPS,
        ),
        *turn("enqueues", 2, request=REQUESTS, commits=st.booleans()),
        *turn("sends_another", 1, which=WHICH),
        *turn("lifts_suppressions", 1),
        *turn("dies", 1, which=WHICH),
    ]
).flatmap(lambda strategy: strategy)


class AnyOrder(RuleBasedStateMachine):
    """At its turn a busy actor resumes its work; an idle one begins with the event."""

    def __init__(self) -> None:
        super().__init__()
        for model in (Message, Suppression, TransportState):
            model.objects.all().delete()
        self.traces: list[Trace] = []
        self.busy: dict[str, Actor] = {}
        self.tasks: list[int] = []
        self.broker_is_up, self.server = True, Server()
        self._written = self._broken = False
        self._stack = ExitStack()
        self._clock = self._stack.enter_context(time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False))
        self._shift_clock(0)
        self._stack.enter_context(connection.execute_wrapper(self._stop_and_execute))
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(transaction, "Atomic", StoppingAtomic)
        patch.setattr(pipeline, "transmit", self._transmit)
        patch.setattr(broker, "publish", self._publish)
        patch.setattr(sweep, "publish", self._publish)
        patch.setattr(sweep, "queue_lengths", lambda: dict.fromkeys(Queue, 0) if self.broker_is_up else None)

    @initialize(requests=st.lists(REQUESTS, min_size=1, max_size=2))
    def begin_with_requests(self, requests: list[Request]) -> None:
        for request in requests:
            self.enqueues(request, commits=True)

    @rule(turn=TURNS)
    def take_turn(self, turn: Turn) -> None:
        getattr(self, turn.what)(**turn.how)

    def enqueues(self, request: Request, commits: bool) -> None:
        if len(self._those(*UNSETTLED)) >= 2:
            return
        there, tasks = len(self.traces), list(self.tasks)
        namesakes = [trace.row.pk for trace in self._those(*UNSETTLED) if trace.row.key == request.key != ""]
        with transaction.atomic():
            message = request.enqueue()
            transaction.set_rollback(not commits)
        self._check_rows()
        if commits and not namesakes:
            assert len(self.traces) == there + 1
        else:
            assert (len(self.traces), self.tasks) == (there, tasks)
            assert not namesakes or namesakes == [message.pk]

    def works(self, who: str, which: int, stops: int, server: Server) -> None:
        """Deliver a due message, whether the broker lost its task or delivers it again."""
        self.server = server
        if trace := self._pick(which, *WAITING):
            if who not in self.busy:
                self._shift_clock(max((trace.row.due_at - timezone.now()).total_seconds(), 0))
            self._resume(who, stops, pipeline.deliver, trace.row.pk)
        elif who in self.busy:
            self._resume(who, stops)

    def resumes(self, which: int, stops: int, server: Server) -> None:
        if not self.busy:
            return
        self.server = server
        self._resume(list(self.busy)[which % len(self.busy)], stops)

    def sweeps(self, who: str, what: str, stops: int) -> None:
        self._resume(who, stops, getattr(sweep, what))

    def decides(self, who: str, which: int, stops: int) -> None:
        possible = [(what, trace) for what, states in DECISIONS.items() for trace in self._those(*states)]
        if possible:
            self._resume(who, stops, self._decide, *possible[which % len(possible)])

    def _decide(self, what: str, trace: Trace) -> None:
        trace.decided.add(what)
        getattr(outbox, what)(Message.objects.filter(pk=trace.row.pk), reason="an operator")

    def sends_another(self, which: int) -> None:
        trace = self._pick(which, *SETTLED)
        if len(self._those(*UNSETTLED)) >= 2 or not trace:
            return
        message = outbox.resend(trace.row)
        assert message.message_id_header != trace.row.message_id_header
        self._check_rows()

    def lifts_suppressions(self) -> None:
        Suppression.objects.all().delete()

    def dies(self, which: int) -> None:
        if not self.busy:
            return
        self.busy.pop(list(self.busy)[which % len(self.busy)]).throw()

    def time_passes(self, seconds: float, sweeps: bool, broker_is_up: bool) -> None:
        self._shift_clock(seconds)
        self.broker_is_up = broker_is_up
        if sweeps:
            self._resume("beat", TO_THE_END, sweep.sweep)

    def teardown(self) -> None:
        try:
            if not self._broken:
                self._check_all_settles()
        finally:
            self._kill_all()
            self._stack.close()

    def _check_all_settles(self) -> None:
        """All actors die, the broker comes back empty, the server accepts everything: every message is settled."""
        self._kill_all()
        self.tasks.clear()
        self.broker_is_up, self.server = True, Server()
        for _ in range(10):
            self._shift_clock(4000)
            self._resume("beat", TO_THE_END, sweep.sweep)
            while self.tasks:
                self._resume("worker 1", TO_THE_END, pipeline.deliver, self.tasks.pop())
            if not self._those(*WAITING, State.SENDING):
                break
        assert not self._those(*WAITING, State.SENDING)
        self._shift_clock((options().retention_days + 1) * 86400)
        assert retention.purge() == len(self._those(*SETTLED))
        assert Message.objects.count() == len(self._those(State.HELD))

    def _kill_all(self) -> None:
        for actor in self.busy.values():
            actor.throw()
        self.busy.clear()

    def _those(self, *states: State) -> list[Trace]:
        return [trace for trace in self.traces if trace.row.state in states]

    def _is_sweep_needed(self) -> bool:
        now = timezone.now()
        return any(trace.attempts[-1].lease_ends < now for trace in self._those(State.SENDING)) or any(
            trace.row.publish_at <= now for trace in self._those(*WAITING)
        )

    def _pick(self, which: int, *states: State) -> Trace | None:
        those = self._those(*states)
        return those[which % len(those)] if those else None

    def _resume(self, who: str, stops: int, *work: Any) -> None:
        """Resume this actor, or let it begin this work."""
        if who not in self.busy:
            self.busy[who] = Actor(lambda: work[0](*work[1:]))
        actor = self.busy[who]
        for _ in range(stops):
            actor.switch()
            self._check_rows()
            if actor.dead:
                del self.busy[who]
                self._check_attempts_of(actor)
                return

    def _check_rows(self) -> None:
        """Check every row after every statement that changed one."""
        if not self._written:
            return
        self._written, self._broken = False, True
        rows = list(Message.objects.order_by("pk").prefetch_related("delivery_attempts"))
        self.traces += [Trace(row) for row in rows[len(self.traces) :]]
        for trace, row in zip(self.traces, rows, strict=True):
            trace.update(row)
        keys = Counter(row.key for row in rows if row.key and row.state in UNSETTLED)
        assert set(keys.values()) <= {1}
        self._broken = False

    def _check_attempts_of(self, worker: Actor) -> None:
        for attempt in (attempt for trace in self.traces for attempt in trace.attempts if attempt.worker is worker):
            assert attempt.outcome
            assert attempt.recorded == _recorded(attempt.outcome), "the server's answer was not recorded"

    def _shift_clock(self, seconds: float) -> None:
        self._clock.shift(seconds)
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('clock.now', %s, false)", [timezone.now().isoformat()])

    # What the product calls.

    def _stop_and_execute(self, execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        stop()
        self._written |= not sql.startswith("SELECT")
        return execute(sql, *args)

    def _transmit(self, mail: EmailMessage, alias: str, *, exclude: Collection[str]) -> Outcome:
        worker, header = getcurrent(), mail.extra_headers["Message-ID"]
        assert isinstance(worker, Actor)
        [trace] = [trace for trace in self.traces if trace.row.message_id_header == header]
        offered = [r for r in map(addresses.as_transmitted, mail.recipients()) if r not in exclude]
        attempt = trace.begin(worker, frozenset(offered))
        stop()
        attempt.outcome, attempt.got_it = self.server.receive(offered)
        return attempt.outcome

    def _publish(self, message: Message) -> bool:
        if self.broker_is_up:
            self.tasks.append(message.pk)
        return self.broker_is_up


@pytest.fixture
def still_clock(transactional_db: None) -> Iterator[None]:
    """Replace PostgreSQL's clock on this connection by one that stands still until it is set."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA clock")
        for function in ("now", "statement_timestamp"):
            cursor.execute(
                f"CREATE FUNCTION clock.{function}() RETURNS timestamptz STABLE"
                " RETURN current_setting('clock.now')::timestamptz"
            )
        cursor.execute("SET search_path TO clock, pg_catalog, public")
        yield
        cursor.execute("RESET search_path")
        cursor.execute("DROP SCHEMA clock CASCADE")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Disable the log, which takes a third of the time."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("still_clock", "quiet")
def test_promises_hold_in_any_order_of_events(settings: Settings) -> None:
    settings.POSTCOMMIT = {"MAX_ATTEMPTS": "3"}
    for address in (ANN, BOB):
        User.objects.create_user(address)
    run_state_machine_as_test(
        AnyOrder,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
