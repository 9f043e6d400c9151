"""The rate of a transport is learnt from what it takes."""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from mailer.delivery import pacing
from mailer.delivery.pacing import FASTER, FORGET_ABOVE, SLOWEST, WINDOW, pause, slower
from tests.mailer.delivery.faster import faster

TWENTY_SECONDS = 20
"""Of the server's window, in which it takes a fixed number of messages: Postfix's anvil_rate_time_unit."""
CONVERSATION = 0.05
"""Seconds."""


@dataclass(frozen=True)
class Run:
    """What happened to a backlog."""

    seconds: float
    refusals: int
    accepted: list[float]
    """The moments, in seconds."""
    rate: float | None

    @property
    def taken(self) -> int:
        return len(self.accepted)


def simulate(
    limit: Callable[[float], float],
    messages: int,
    *,
    unit: float = TWENTY_SECONDS,
    threads: int = 1,
    longest: float = 1e5,
) -> Run:
    """Send a backlog to a server that takes `limit(time)` messages in each unit. Each thread books a slot, waits, sends."""
    rate: float | None = None
    slot, finished, refusals = 0.0, 0.0, 0
    taken: Counter[int] = Counter()
    accepted: list[float] = []
    free = [0.0] * threads
    while len(accepted) < messages and (now := heapq.heappop(free)) < longest:
        if rate is not None:
            rate = faster(rate, timedelta(seconds=now - slot))
        begins = now
        if rate is not None:
            begins = max(slot, now)
            slot = begins + 1 / rate
        finished = begins + CONVERSATION
        window = int(begins // unit)
        if taken[window] < limit(begins):
            taken[window] += 1
            accepted.append(finished)
        else:
            refusals += 1
            recent = [moment for moment in accepted if finished - WINDOW.total_seconds() < moment <= finished]
            ago = [timedelta(seconds=finished - moment) for moment in (recent or [finished - 60])]
            rate = slower(rate, len(recent), max(ago))
            slot = max(slot, finished + pause(min(ago)).total_seconds())
        heapq.heappush(free, finished)
    return Run(finished, refusals, accepted, rate)


@pytest.mark.parametrize("threads", [1, 4, 16])
@pytest.mark.parametrize("unit", [5, 20, 60])
@pytest.mark.parametrize(("limit", "messages"), [(20, 200), (3, 60), (400, 4000)])
def test_a_fixed_window_takes_a_backlog_in_less_than_twice_the_ideal_time(
    limit: int, messages: int, unit: int, threads: int
) -> None:
    run = simulate(lambda _: limit, messages, unit=unit, threads=threads)

    ideal = max((messages / limit - 1) * unit, messages * CONVERSATION / threads)
    assert run.taken == messages
    assert run.seconds <= 2 * ideal
    assert run.refusals <= messages * (0.6 if limit == 3 else 0.2) + threads


def test_few_messages_are_refused_once_the_rate_is_learnt() -> None:
    run = simulate(lambda _: 20, 5000, threads=4)

    assert run.refusals <= 5000 * 0.08
    assert run.seconds <= 5000 * 1.2


def test_a_limit_that_vanishes_is_forgotten_within_minutes() -> None:
    run = simulate(lambda time: 20 if time < 600 else 1e9, 20_000)

    assert run.rate is None
    assert run.taken == 20_000
    assert 600 < run.seconds < 600 + 1400


def test_a_limit_that_rises_tenfold_is_followed() -> None:
    run = simulate(lambda time: 20 if time < 600 else 200, 6600)

    assert run.taken == 6600
    assert run.seconds < 600 + 2 * 600


def test_a_limit_that_falls_is_followed() -> None:
    run = simulate(lambda time: 200 if time < 200 else 10, 2200)

    left = sum(moment > 200 for moment in run.accepted)
    assert run.taken == 2200
    assert run.seconds < 200 + 60 + left / 0.5 * 1.2
    assert run.refusals < 2200 * 0.15


def test_a_server_that_takes_nothing_for_an_hour_is_asked_about_once_a_minute() -> None:
    run = simulate(lambda time: 0 if time < 3600 else 1e9, 100)

    assert run.taken == 100
    assert 50 <= run.refusals <= 75


def test_refusals_that_come_together_lower_the_rate_once() -> None:
    once = slower(None, 60, WINDOW)

    assert slower(slower(slower(once, 60, WINDOW), 60, WINDOW), 60, WINDOW) == once == 0.8


def test_a_greylisting_that_was_taken_for_a_limit_is_left_behind_within_minutes() -> None:
    """Its messages are refused for some minutes, and all others are taken: the rate is low only at the beginning."""
    rate: float | None = SLOWEST
    seconds = 0.0
    while rate is not None:
        rate = faster(rate)
        seconds += 1 / rate if rate else 0.0

    assert seconds < 15 * 60


@given(st.none() | st.floats(SLOWEST, FORGET_ABOVE), st.integers(0, 10**6), st.timedeltas(-WINDOW, WINDOW))
def test_a_refusal_never_makes_it_faster_and_never_stops_it(
    rate: float | None, accepted: int, within: timedelta
) -> None:
    lower = slower(rate, accepted, within)

    assert lower >= SLOWEST
    assert rate is None or lower <= rate


@given(st.floats(SLOWEST, FORGET_ABOVE), st.timedeltas(timedelta(seconds=-10), timedelta(days=365)))
def test_a_message_makes_it_a_little_faster(rate: float, idle: timedelta) -> None:
    grown = faster(rate, idle)

    assert grown is None or rate < grown <= 2 * rate + 1.001 * pacing.GAIN
    assert grown is not None or rate > FORGET_ABOVE / 2 - 1


@pytest.mark.django_db
@pytest.mark.parametrize("rate", [SLOWEST, 1.0, 49.9, 50.0, 99.98, 99.995, 100.0])
@pytest.mark.parametrize("idle", [-5.0, 0.0, 3.5, 99.0, 1e6])
def test_the_database_computes_the_same(rate: float, idle: float) -> None:
    with connection.cursor() as cursor:
        expression = FASTER.format(rate="limits.rate", idle="limits.idle")
        values = "(SELECT %s::float8 AS rate, %s::float8 AS idle)"
        cursor.execute(f"SELECT {expression} FROM {values} limits", [rate, idle])  # noqa: S608 - only constants
        [computed] = cursor.fetchone()

    assert computed == (
        pytest.approx(faster(rate, timedelta(seconds=idle))) if faster(rate, timedelta(seconds=idle)) else None
    )
