"""Decide whether and when a message is tried again. Pure functions: no clock, no database, no settings."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits of retries: pauses double from `base` up to `maximum`, until `patience` has run out. There is no count."""

    base: timedelta
    maximum: timedelta
    patience: timedelta = timedelta(days=5)
    """From the first due time until the message fails: at least 4-5 days (RFC 5321, 4.5.4.1)."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again. `reason` is for the operator."""

    reason: str


def backoff(number: int, policy: Policy, rng: random.Random | None = None) -> timedelta:
    """Return the pause after refusal `number` in a row, which starts at 1.

    Exponential with "equal jitter" (half fixed, half random), so that messages that failed together are not retried
    together: M. Brooker, "Exponential Backoff And Jitter", 2015.
    """
    exponent = min(number - 1, 63)  # a larger power would overflow; 2**63 bases exceed every maximum
    ceiling = min(policy.base.total_seconds() * 2**exponent, policy.maximum.total_seconds())
    return timedelta(seconds=ceiling / 2 + (rng or random).uniform(0, ceiling / 2))


def pause_since(trouble: timedelta, policy: Policy) -> timedelta:
    """Return the next pause of a trouble that has lasted so long: as long again, so it doubles without a counter."""
    return min(max(trouble, policy.base), policy.maximum)


def decide(
    *,
    now: datetime,
    number: int,
    policy: Policy,
    began_at: datetime,
    retry_after: timedelta | None = None,
    expires_at: datetime | None = None,
    patience: timedelta | None = None,
    rng: random.Random | None = None,
) -> datetime | GiveUp:
    """Return the moment of the next attempt after one that was not accepted, or the reason to give up.

    `number` counts the refusals in a row without progress and sets the pause. `began_at` is the first due time, from which
    `patience` counts; the policy's unless it is given. `retry_after` is the pause that the server asked for, a minimum.
    """
    patience = policy.patience if patience is None else patience
    end, reason = began_at + patience, f"tried for {_in_words(patience)}" if patience else "a retry will not help"
    if expires_at is not None and expires_at < end:
        end, reason = (
            expires_at,
            f"the next attempt would come after the e-mail's deadline ({expires_at:%Y-%m-%d %H:%M} UTC)",
        )
    earliest = now + max(policy.base, retry_after or timedelta(0))
    if earliest >= end:
        return GiveUp(reason)
    at = now + max(backoff(number, policy, rng), retry_after or timedelta(0))
    if at >= end:
        return earliest + (end - earliest) / 2  # shorten a long pause rather than give up
    return at


def _in_words(duration: timedelta) -> str:
    hours = duration / timedelta(hours=1)
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"
