import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailer.delivery.retry import GiveUp, Policy, backoff, decide

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = Policy(max_attempts=10, base=timedelta(seconds=10), maximum=timedelta(hours=1))


@pytest.mark.parametrize(
    ("number", "ceiling"),
    [(1, 10), (2, 20), (3, 40), (8, 1280), (9, 2560), (10, 3600), (11, 3600), (10_000, 3600)],
)
def test_pauses_double_up_to_the_maximum_and_half_of_each_is_random(number: int, ceiling: int) -> None:
    rng = random.Random(1)
    pauses = [backoff(number, POLICY, rng).total_seconds() for _ in range(500)]

    assert ceiling / 2 <= min(pauses) < ceiling * 0.55
    assert ceiling * 0.95 < max(pauses) <= ceiling


@pytest.mark.parametrize(
    ("counted", "retry_after", "expires_in", "expected"),
    [
        (1, None, None, datetime),
        (9, None, None, datetime),
        (10, None, None, GiveUp),
        (11, None, None, GiveUp),
        (1, None, timedelta(seconds=2), GiveUp),
        (1, None, timedelta(hours=1), datetime),
        (1, timedelta(hours=2), timedelta(hours=1), GiveUp),
    ],
)
def test_attempts_and_deadline_are_limits(
    counted: int, retry_after: timedelta | None, expires_in: timedelta | None, expected: type
) -> None:
    decision = decide(
        now=NOW,
        number=1,
        counted=counted,
        policy=POLICY,
        retry_after=retry_after,
        expires_at=NOW + expires_in if expires_in else None,
    )

    assert isinstance(decision, expected)


def test_a_long_pause_is_shortened_before_the_deadline() -> None:
    decision = decide(now=NOW, number=20, counted=1, policy=POLICY, expires_at=NOW + timedelta(minutes=29))

    assert decision == NOW + timedelta(seconds=10) + (timedelta(minutes=29) - timedelta(seconds=10)) / 2


def test_the_pause_that_a_server_asks_for_is_a_minimum() -> None:
    decision = decide(now=NOW, number=1, counted=1, policy=POLICY, retry_after=timedelta(minutes=5))

    assert decision == NOW + timedelta(minutes=5)


@given(
    number=st.integers(1, 10**6),
    counted=st.integers(0, 20),
    deadline=st.none() | st.timedeltas(min_value=timedelta(seconds=-10), max_value=timedelta(days=30)),
)
def test_a_retry_is_never_in_the_past_nor_after_the_deadline(
    number: int, counted: int, deadline: timedelta | None
) -> None:
    expires_at = None if deadline is None else NOW + deadline
    decision = decide(now=NOW, number=number, counted=counted, policy=POLICY, expires_at=expires_at)

    if isinstance(decision, datetime):
        assert NOW < decision <= NOW + POLICY.maximum
        assert expires_at is None or decision < expires_at
        assert counted < POLICY.max_attempts
