import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailer.delivery.circuit import ACCOUNT
from mailer.delivery.retry import GiveUp, Policy, backoff, decide, pause_since

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = Policy(base=timedelta(seconds=10), maximum=timedelta(hours=1))
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


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
    ("age", "patience", "expires_in", "retry_after", "reason"),
    [
        (timedelta(0), None, None, None, None),
        (5 * DAY - MINUTE, None, None, None, None),
        (5 * DAY - timedelta(seconds=10), None, None, None, "5 days"),
        (6 * DAY, None, None, None, "5 days"),
        (timedelta(0), timedelta(0), None, None, "will not help"),
        (23 * HOUR, DAY, None, None, None),
        (25 * HOUR, DAY, None, None, "24 hours"),
        (25 * HOUR, 10 * DAY, None, None, None),
        (timedelta(0), None, timedelta(seconds=2), None, "deadline"),
        (timedelta(0), None, HOUR, None, None),
        (timedelta(0), None, 10 * DAY, None, None),
        (6 * DAY, None, 10 * DAY, None, "5 days"),
        (timedelta(0), None, HOUR, 2 * HOUR, "deadline"),
        (4 * DAY, None, None, 2 * DAY, "5 days"),
        (-HOUR, None, None, None, None),
    ],
)
def test_time_is_the_limit(
    age: timedelta, patience: timedelta | None, expires_in: timedelta | None, retry_after: timedelta | None, reason: str
) -> None:
    decision = decide(
        now=NOW,
        number=20,
        policy=POLICY,
        began_at=NOW - age,
        patience=patience,
        retry_after=retry_after,
        expires_at=NOW + expires_in if expires_in else None,
    )

    if reason:
        assert isinstance(decision, GiveUp)
        assert reason in decision.reason
    else:
        assert isinstance(decision, datetime)


def test_a_long_pause_is_shortened_before_the_end() -> None:
    end = NOW + timedelta(minutes=29)
    expected = NOW + timedelta(seconds=10) + (timedelta(minutes=29) - timedelta(seconds=10)) / 2

    assert decide(now=NOW, number=20, policy=POLICY, began_at=NOW, expires_at=end) == expected
    assert decide(now=NOW, number=20, policy=POLICY, began_at=end - POLICY.patience) == expected


def test_the_pause_that_a_server_asks_for_is_a_minimum() -> None:
    decision = decide(now=NOW, number=1, policy=POLICY, began_at=NOW, retry_after=timedelta(minutes=5))

    assert decision == NOW + timedelta(minutes=5)


@pytest.mark.parametrize("outage", [timedelta(minutes=47), 2 * HOUR, 12 * HOUR, 4 * DAY])
def test_an_outage_of_hours_fails_nothing(outage: timedelta) -> None:
    """Ten attempts used to be the limit, which were over after 47 to 82 minutes."""
    attempts = try_until(NOW + outage)

    assert attempts[-1] >= NOW + outage
    assert attempts[-1] - (NOW + outage) <= POLICY.maximum


def test_five_days_of_refusals_are_few_attempts_and_the_last_one_is_near_the_end() -> None:
    attempts = try_until(None)

    assert 120 < len(attempts) < 300
    assert NOW + POLICY.patience - MINUTE < attempts[-1] < NOW + POLICY.patience


def try_until(works_from: datetime | None) -> list[datetime]:
    """Return the moments of the attempts of a message, until the server works or the message is given up."""
    rng = random.Random(2)
    attempts = [NOW]
    while works_from is None or attempts[-1] < works_from:
        decision = decide(now=attempts[-1], number=len(attempts), policy=POLICY, began_at=NOW, rng=rng)
        if isinstance(decision, GiveUp):
            assert works_from is None
            break
        attempts.append(decision)
    return attempts


@given(
    number=st.integers(1, 10**6),
    age=st.timedeltas(timedelta(days=-1), timedelta(days=30)),
    patience=st.none() | st.timedeltas(timedelta(0), timedelta(days=30)),
    deadline=st.none() | st.timedeltas(timedelta(seconds=-10), timedelta(days=30)),
    retry_after=st.none() | st.timedeltas(timedelta(0), timedelta(days=1)),
)
def test_a_retry_is_never_in_the_past_nor_at_the_end_or_after_it(
    number: int,
    age: timedelta,
    patience: timedelta | None,
    deadline: timedelta | None,
    retry_after: timedelta | None,
) -> None:
    expires_at = None if deadline is None else NOW + deadline
    decision = decide(
        now=NOW,
        number=number,
        policy=POLICY,
        began_at=NOW - age,
        expires_at=expires_at,
        patience=patience,
        retry_after=retry_after,
    )

    ends = [end for end in (NOW - age + (POLICY.patience if patience is None else patience), expires_at) if end]
    earliest = NOW + max(POLICY.base, retry_after or timedelta(0))
    if isinstance(decision, datetime):
        assert NOW + POLICY.base / 2 <= decision < min(ends)
        assert decision <= NOW + max(POLICY.maximum, retry_after or timedelta(0))
        assert decision >= NOW + (retry_after or timedelta(0))
    else:
        assert earliest >= min(ends)


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [(0, 10), (-5, 10), (9, 10), (10, 10), (11, 11), (600, 600), (3600, 3600), (10**7, 3600)],
)
def test_a_pause_without_a_counter_is_as_long_as_the_trouble(trouble: int, expected: int) -> None:
    assert pause_since(timedelta(seconds=trouble), POLICY) == timedelta(seconds=expected)


def test_pauses_without_a_counter_double() -> None:
    trouble, tries = timedelta(0), 0
    while trouble < 5 * HOUR:
        trouble += pause_since(trouble, POLICY)
        tries += 1

    assert tries < 16


@pytest.mark.parametrize(
    ("failures", "ceiling"),
    [(1, MINUTE), (7, 64 * MINUTE), (99, DAY)],
)
def test_a_refused_account_is_probed_ever_more_rarely(failures: int, ceiling: timedelta) -> None:
    pauses = [backoff(failures, ACCOUNT, random.Random(n)) for n in range(100)]

    assert ceiling / 2 <= min(pauses) <= max(pauses) <= ceiling


def test_a_refused_account_sees_few_log_ins_a_day() -> None:
    trouble, probes = timedelta(0), 0
    while trouble < DAY:
        probes += 1
        trouble += backoff(probes, ACCOUNT)

    assert probes <= 13
    assert ACCOUNT.maximum == DAY


@pytest.mark.parametrize("maximum", [timedelta(seconds=1), HOUR])
def test_a_short_maximum_is_kept(maximum: timedelta) -> None:
    policy = Policy(base=timedelta(minutes=10), maximum=maximum)

    assert backoff(5, policy) <= maximum
