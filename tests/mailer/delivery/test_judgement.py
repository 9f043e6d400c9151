"""Attribution, retries and pacing together: a worker in simulated time, against servers that refuse for their own reasons."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from mailer.delivery import attribution, circuit, pacing, retry
from mailer.delivery.attribution import Attribution, Fault, attribute
from mailer.delivery.evidence import Heard
from mailer.outcomes import PermanentRefusal, Phase, TransientRefusal
from tests.mailer.delivery.faster import faster

BEGAN = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
POLICY = retry.Policy(base=timedelta(seconds=10), maximum=timedelta(hours=1))
OF_A_TRANSPORT = retry.Policy(POLICY.base, circuit.LONGEST)
Server = Callable[[int, float], str]
"""Answers a message at a moment, in seconds, with the reply to RCPT, or with "" if it takes the mail."""


@dataclass
class Worker:
    """One worker that sends one message at a time, and does with each fault what Fault says."""

    server: Server
    messages: int
    one_domain: bool = False
    every: float = 0.0
    now: float = 0.0
    rate: float | None = None
    failures: int = 0
    refusals: int = 0
    paused: float = 0.0
    due: dict[int, float] = field(default_factory=dict)
    sent: dict[int, float] = field(default_factory=dict)
    failed: dict[int, float] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    heard: list[tuple[float, Heard]] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(3))

    def run(self, until: float) -> "Worker":
        self.due = {number: number * self.every for number in range(self.messages)}
        while self.due and self.now < until:
            number = min(self.due, key=lambda n: self.due[n])
            self.now = max(self.now, self.due.pop(number)) + 0.05
            domain = "shop.example" if self.one_domain else f"d{number % 50}.example"
            reply = self.server(number, self.now)
            code, _, text = (reply or "250 2.0.0 Ok").partition(" ")
            answer = Heard(number, domain, Phase.RCPT, code, text, is_accepted=not reply, seconds_ago=0.0, seconds=0.05)
            self.heard.append((self.now, answer))
            if reply:
                self.judge(answer)
                continue
            self.sent[number] = self.now
            self.failures = 0
            self.rate = faster(self.rate) if self.rate else None
            self.now += 1 / self.rate if self.rate else 0.0
        return self

    def judge(self, answer: Heard) -> None:
        self.refusals += 1
        self.counts[answer.message] += 1
        kind = PermanentRefusal if answer.code.startswith("5") else TransientRefusal
        said = [replace(other, seconds_ago=self.now - moment) for moment, other in self.heard[-101:-1]]
        refusal = kind(answer.code, answer.text, Phase.RCPT)
        verdict = attribute(refusal, said, message=answer.message, domain=answer.domain)
        match verdict.fault:
            case Fault.TRANSPORT | Fault.QUOTA | Fault.ACCOUNT:
                self.failures += 1
                is_account = verdict.fault is Fault.ACCOUNT
                policy = circuit.ACCOUNT if is_account else OF_A_TRANSPORT
                longest = max(retry.backoff(self.failures, policy, self.rng), verdict.pause or timedelta(0))
                pause = longest.total_seconds()
                self.now += pause
                self.paused += pause
                self.due[answer.message] = self.now + 1  # another message goes first
            case Fault.RATE:
                taken = [other.seconds_ago for other in said if other.is_accepted and other.seconds_ago <= 60]
                ago = [timedelta(seconds=seconds) for seconds in (taken or [60.0])]
                self.rate = pacing.slower(self.rate, len(taken), max(ago))
                self.now += pacing.pause(min(ago)).total_seconds()
                self.due[answer.message] = self.now
            case _:
                self.try_again(answer.message, verdict)

    def try_again(self, message: int, verdict: Attribution) -> None:
        again = retry.decide(
            now=BEGAN + timedelta(seconds=self.now),
            number=self.counts[message],
            policy=POLICY,
            began_at=BEGAN,
            patience=verdict.patience,
            retry_after=verdict.pause,
            rng=self.rng,
        )
        if isinstance(again, retry.GiveUp):
            self.failed[message] = self.now
        else:
            self.due[message] = (again - BEGAN).total_seconds()


FOREIGN = "553 5.7.1 <shop@else.example>: Sender address rejected: not owned by user shop"
BLOCKED = "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example"


@pytest.mark.parametrize(
    "reply", [FOREIGN, "421 4.7.0 closing", "451 4.3.0 queue file write error", "550 not permitted"]
)
@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_poison_mail_beside_good_ones_stops_nobody_for_long(reply: str, place: int) -> None:
    worker = Worker(lambda number, _: reply if number == place else "", 16).run(until=3000)

    assert len(worker.sent) == 15
    assert max(worker.sent.values()) < 15
    assert worker.paused <= (10 if place < 15 else 300)
    if reply.startswith("5"):
        assert worker.failed[place] < 120
        assert worker.refusals <= 5
    else:
        assert not worker.failed


def test_a_hundred_poison_mails_in_a_stream_of_good_ones_fail_and_the_good_ones_pass() -> None:
    worker = Worker(lambda number, _: FOREIGN if number % 3 == 0 else "", 300, every=1.0).run(until=7200)

    assert len(worker.sent) == 200
    assert len(worker.failed) == 100
    assert max(at - number for number, at in worker.sent.items()) < 30
    assert worker.refusals <= 300


@pytest.mark.parametrize("one_domain", [False, True])
@pytest.mark.parametrize(
    "reply",
    [
        BLOCKED,
        FOREIGN,
        "550 5.7.1 relaying denied",
        "451 4.7.1 Service unavailable - try again later",
        "452 4.3.1 full",
    ],
)
@pytest.mark.parametrize(("begins", "ends"), [(0.0, 600.0), (5.0, 7200.0)])
def test_a_server_that_refuses_everything_for_a_while_fails_nothing(
    reply: str, one_domain: bool, begins: float, ends: float
) -> None:
    worker = Worker(lambda _, now: reply if begins <= now < ends else "", 200, one_domain=one_domain).run(until=20_000)

    assert len(worker.sent) == 200
    assert not worker.failed
    assert worker.refusals < 20 + ends / 30  # a probe a minute, or more often by chance
    assert max(worker.sent.values()) < ends + circuit.LONGEST.total_seconds() + 30


def test_a_quota_of_a_day_sees_few_tries_and_fails_nothing() -> None:
    reply = "550 5.4.5 Daily user sending limit exceeded."
    worker = Worker(lambda _, now: reply if 5 <= now < 86_400 else "", 200).run(until=3 * 86_400)

    assert len(worker.sent) == 200
    assert worker.refusals <= 25
    assert max(worker.sent.values()) < 86_400 + attribution.REFILL.total_seconds() + 60


@pytest.mark.parametrize("one_domain", [False, True])
@pytest.mark.parametrize(
    "reply", ["450 4.7.1 Error: too much mail from 192.0.2.1", "450 4.7.1 <a@shop.example>: later"]
)
def test_a_server_that_takes_twenty_in_twenty_seconds_takes_all(reply: str, one_domain: bool) -> None:
    """Row 35: 60 were sent, after 1,720 refusals, and 140 failed."""
    taken: dict[int, int] = {}

    def server(_: int, now: float) -> str:
        window = int(now // 20)
        if taken.setdefault(window, 0) >= 20:
            return reply
        taken[window] += 1
        return ""

    worker = Worker(server, 200, one_domain=one_domain).run(until=3600)

    assert len(worker.sent) == 200
    assert worker.refusals < 40
    assert max(worker.sent.values()) < 400


def test_greylisting_of_one_domain_among_many_slows_nobody() -> None:
    first: dict[int, float] = {}

    def server(number: int, now: float) -> str:
        return "450 4.7.1 try again later" if number % 50 == 7 and now - first.setdefault(number, now) < 300 else ""

    worker = Worker(server, 500).run(until=3600)

    assert len(worker.sent) == 500
    assert worker.paused == 0
    assert max(at for number, at in worker.sent.items() if number % 50 != 7) < 30
