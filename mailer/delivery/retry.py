"""What happens to a message after an attempt, and when. Pure: no clock, no database, no settings."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient the mailer is. The pauses double from `base` up to `maximum`."""

    max_attempts: int
    base: timedelta
    maximum: timedelta


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again at this moment."""

    at: datetime


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again; `reason` is a sentence for the operator."""

    reason: str


def backoff(number: int, policy: Policy, rng: random.Random | None = None) -> timedelta:
    """The pause after the attempt with this number, counted from 1.

    Exponential with "equal jitter" (half fixed, half random), so that what failed together does not come back together:
    M. Brooker, "Exponential Backoff And Jitter", 2015.
    """
    exponent = min(number - 1, 63)  # 2**63 bases are beyond every maximum; a larger power would overflow timedelta
    ceiling = min(policy.base.total_seconds() * 2**exponent, policy.maximum.total_seconds())
    return timedelta(seconds=ceiling / 2 + (rng or random).uniform(0, ceiling / 2))


def decide(
    *,
    now: datetime,
    number: int,
    spent: int,
    policy: Policy,
    retry_after: timedelta | None = None,
    expires_at: datetime | None = None,
    rng: random.Random | None = None,
) -> Retry | GiveUp:
    """Decides after an attempt that brought no acceptance.

    `number` is the attempt's number and sets the pause; `spent` is how many attempts count against the limit (one that met
    a server that was down does not). `retry_after` is the pause that the server itself asked for, and is a minimum.
    """
    if spent >= policy.max_attempts:
        return GiveUp(f"refused {spent} times, which is the limit")
    earliest = now + max(policy.base, retry_after or timedelta(0))
    if expires_at is not None and earliest >= expires_at:
        return GiveUp(f"the next attempt would come after the e-mail's deadline ({expires_at:%Y-%m-%d %H:%M} UTC)")
    at = now + max(backoff(number, policy, rng), retry_after or timedelta(0))
    if expires_at is not None and at >= expires_at:
        return Retry(earliest + (expires_at - earliest) / 2)  # a long pause is no reason to give up while time is left
    return Retry(at)
