"""The mailer's options: `settings.MAILER`, a dictionary whose values may be strings straight from the environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

HORIZON = timedelta(seconds=60)
"""Countdowns are held in a worker's memory, and come twice when they outlast the broker's visibility timeout; what is due
later than this waits in PostgreSQL."""

KOMBU_VISIBILITY_TIMEOUT = 3600
"""Its default for Redis, in seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """One field an option; `MAX_ATTEMPTS` in the dictionary is `MAILER_MAX_ATTEMPTS` in the environment. Times in seconds."""

    max_attempts: int = 10
    """How often a message is transmitted at the most. A server that is down spends none of them."""
    backoff_base: timedelta = timedelta(seconds=10)
    """The first pause after a refusal for now; each further one is twice as long …"""
    backoff_max: timedelta = timedelta(seconds=3600)
    """… up to this."""
    republish_after: timedelta = timedelta(seconds=30)
    """How long after its due time a message must have waited before the sweep hands it over once more."""
    claim_lease: timedelta = timedelta(seconds=60)
    """How long a worker may be silent about a message that it claimed before its outcome counts as unknown."""
    smtp_timeout: timedelta = timedelta(seconds=15)
    """The longest silence of a mail server, in any phase of the conversation."""
    rate_per_second: float | None = None
    """How many messages each transport gets, over all workers; no limit unless it is set."""
    retention_days: int = 90
    """After how many days a settled message is purged; a century at the most."""

    @property
    def conversation_limit(self) -> timedelta:
        """How long a whole conversation may take: less than the lease, so that it has ended before the claim does."""
        return (self.smtp_timeout + self.claim_lease) / 2


def parse(raw: dict[str, Any]) -> Options:
    """Turns `{"MAX_ATTEMPTS": "5"}` into Options. Raises ImproperlyConfigured with a sentence that names the option."""
    kinds = {field.name.upper(): field.type for field in fields(Options)}
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in kinds:
            close = get_close_matches(name, kinds, n=1)
            hint = (
                f"did you mean MAILER_{close[0]}?" if close else f"there are {', '.join(f'MAILER_{k}' for k in kinds)}."
            )
            raise ImproperlyConfigured(f"MAILER_{name} is not an option of the mailer; {hint}")
        values[name.lower()] = _convert(name, value, kinds[name])
    options = Options(**values)
    _check(options)
    return options


def _convert(name: str, value: Any, kind: Any) -> Any:
    try:
        if kind is timedelta:
            return value if isinstance(value, timedelta) else timedelta(seconds=float(value))
        if kind == float | None:
            return _finite(value) if value not in (None, "") else None
        return int(value)
    except (TypeError, ValueError, OverflowError):
        number = "a whole number" if kind is int else "a number"
        raise ImproperlyConfigured(f"MAILER_{name} must be {number}, not {value!r}.") from None


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _check(options: Options) -> None:
    """Holds what the promises stand on: who gives up first, and that every bound is one."""
    for field in fields(Options):
        value = getattr(options, field.name)
        if value is not None and value <= type(value)(0):
            raise ImproperlyConfigured(f"MAILER_{field.name.upper()} must be more than 0.")
    if options.retention_days > 36_500:
        raise ImproperlyConfigured("MAILER_RETENTION_DAYS must be 36500 at the most.")
    for shorter, longer, why in (
        ("smtp_timeout", "claim_lease", "a worker must hear of a silent server before its claim runs out"),
        ("backoff_base", "backoff_max", "the first pause cannot be longer than the longest"),
    ):
        if getattr(options, shorter) >= getattr(options, longer):
            raise ImproperlyConfigured(f"MAILER_{shorter.upper()} must be less than MAILER_{longer.upper()}: {why}.")


def hold_against_broker(options: Options, transport_options: Mapping[str, Any]) -> None:
    """Raises ImproperlyConfigured if the broker would hand a task to a second worker while the first one is at it."""
    visibility_timeout = timedelta(seconds=float(transport_options.get("visibility_timeout", KOMBU_VISIBILITY_TIMEOUT)))
    for name, shorter, why in (
        ("twice MAILER_CLAIM_LEASE", 2 * options.claim_lease, "a task may take as long as that"),
        ("the countdown of a task", HORIZON, "a worker keeps it for as long as that"),
    ):
        if shorter >= visibility_timeout:
            raise ImproperlyConfigured(
                f"visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS ({visibility_timeout.total_seconds():g} s) must be "
                f"more than {name} ({shorter.total_seconds():g} s): {why}, and another worker would get it as well."
            )


@lru_cache(maxsize=1)
def options() -> Options:
    """The options in force."""
    return parse(getattr(settings, "MAILER", {}))


@setting_changed.connect
def forget(*, setting: str, **_: Any) -> None:
    """Lets `override_settings(MAILER=…)` take effect."""
    if setting == "MAILER":
        options.cache_clear()
