"""Decide whether and when a message is tried again. Pure functions: no clock, no database, no settings."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of retries. Pauses double from `base` up to `maximum`."""

    max_attempts: int
    base: timedelta
    maximum: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again. `reason` is for the operator."""

    reason: str


def backoff(number: int, policy: Policy, rng: random.Random | None = None) -> timedelta:
    """Return the pause after attempt `number`, which starts at 1.

    Exponential with "equal jitter" (half fixed, half random), so that messages that failed together are not retried
    together: M. Brooker, "Exponential Backoff And Jitter", 2015.
    """
    exponent = min(number - 1, 63)  # a larger power would overflow; 2**63 bases exceed every maximum
    ceiling = min(policy.base.total_seconds() * 2**exponent, policy.maximum.total_seconds())
    return timedelta(seconds=ceiling / 2 + (rng or random).uniform(0, ceiling / 2))


def decide(
    *,
    now: datetime,
    number: int,
    counted: int,
    policy: Policy,
    retry_after: timedelta | None = None,
    expires_at: datetime | None = None,
    rng: random.Random | None = None,
) -> datetime | GiveUp:
    """Return the moment of the next attempt after one that was not accepted, or the reason to give up.

    `number` is the number of the attempt and sets the pause. `counted` attempts count against the limit; an attempt while the
    server was down does not. `retry_after` is the pause that the server asked for, a minimum.
    """
    if counted >= policy.max_attempts:
        return GiveUp(f"{counted} attempts, which is the limit")
    earliest = now + max(policy.base, retry_after or timedelta(0))
    if expires_at is not None and earliest >= expires_at:
        return GiveUp(f"the next attempt would come after the e-mail's deadline ({expires_at:%Y-%m-%d %H:%M} UTC)")
    at = now + max(backoff(number, policy, rng), retry_after or timedelta(0))
    if expires_at is not None and at >= expires_at:
        return earliest + (expires_at - earliest) / 2  # shorten a long pause rather than give up
    return at
