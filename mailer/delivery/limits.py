"""The limits of a transport: `MAILERS[alias]["LIMITS"]`, beside its OPTIONS, which Django hands to the backend."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import mailers
from django.core.signals import setting_changed
from django.dispatch import receiver

from mailer import routes
from mailer.conf import options

DOMAINS = {"gmail.com": 20, "outlook.com": 20, "yahoo.com": 20, "icloud.com": 20}
"""The limits of large providers, for a transport that limits any domain: Postfix's default_destination_concurrency_limit."""
SAME = {
    "googlemail.com": "gmail.com",
    **dict.fromkeys(["hotmail.com", "live.com", "msn.com"], "outlook.com"),
    **dict.fromkeys(["aol.com", "ymail.com", "rocketmail.com"], "yahoo.com"),
    **dict.fromkeys(["me.com", "mac.com"], "icloud.com"),
}
"""Domains of the same provider, which share one limit."""

ENTRY = re.compile(r"([a-z0-9-]+(?:\.[a-z0-9-]+)+) ?: ?0*([1-9]\d{0,4})", re.ASCII)
"""A domain and its limit."""
SECONDS = {"s": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a transport may be asked to take, over all workers."""

    rate: float | None = None
    """Messages a second."""
    quota: int | None = None
    """Messages in any 24 hours."""
    weight: int = 0
    """Percent of the messages of the default route that take this transport first. Only the fallback may have one."""
    domains: Mapping[str, int] = field(default_factory=dict)
    """Messages that are sent to a recipient's domain at a time, for the domains that have such a limit."""
    source: str = field(default="", compare=False)
    """What sets the rate, for people."""

    @property
    def is_counted(self) -> bool:
        """Whether each message needs a slot."""
        return self.rate is not None or self.quota is not None


def parse(alias: str, raw: Mapping[str, Any]) -> Limits:
    """Convert `{"rate": "14/s", "quota": "50000/day"}`. Raises ImproperlyConfigured with a sentence.

    It names the parameter, and not its value: of a URL that was put together wrongly, that may be a secret.
    """
    if not isinstance(raw, Mapping):
        raise ImproperlyConfigured('LIMITS must be a dictionary, as in {"rate": "14/s"}.')
    if unknown := raw.keys() - PARSERS.keys():
        raise ImproperlyConfigured(f"{min(unknown)!r} is no limit; there are {', '.join(PARSERS)}.")
    values: dict[str, Any] = {}
    for name, value in raw.items():
        try:
            values[name] = PARSERS[name](value)
        except ValueError as error:
            raise ImproperlyConfigured(f"{name} must be {error}.") from None
    if values.get("weight") and alias != routes.FALLBACK:
        raise ImproperlyConfigured(f"only {routes.FALLBACK!r} may have a weight.")
    return Limits(**values, source=f"the rate a second of {alias!r}")


def _rate(value: Any) -> float:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(?: ?/ ?([a-z]+))?", str(value).strip(), re.ASCII)
    if found is None or float(found[1]) == 0 or (found[2] or "s") not in SECONDS:
        raise ValueError("messages a second, minute or hour, as in 14/s or 100/minute")
    return float(found[1]) / SECONDS[found[2] or "s"]


def _quota(value: Any) -> int:
    found = re.fullmatch(r"0*([1-9]\d{0,11})( ?/ ?(d|day|24h))?", str(value).strip(), re.ASCII)
    if found is None:
        raise ValueError("a whole number of messages a day, as in 50000/day")
    return int(found[1])


def _weight(value: Any) -> int:
    found = re.fullmatch(r"(\d{1,3})%?", str(value).strip(), re.ASCII)
    if found is None or int(found[1]) > 100:
        raise ValueError("a whole number of percent from 0 to 100, as in 10")
    return int(found[1])


def _domains(value: Any) -> Mapping[str, int]:
    """Return DOMAINS with these limits."""
    text = ",".join(map("{0[0]}:{0[1]}".format, value.items())) if isinstance(value, Mapping) else str(value)
    entries = [ENTRY.fullmatch(entry.strip().lower()) for entry in text.split(",")]
    if not all(entries):
        raise ValueError("domains with their numbers of messages at a time, as in gmail.com:10,example.org:2")
    return DOMAINS | {SAME.get(entry[1], entry[1]): int(entry[2]) for entry in entries if entry}


PARSERS: Mapping[str, Callable[[Any], Any]] = {"rate": _rate, "quota": _quota, "weight": _weight, "domains": _domains}


@cache
def of(alias: str) -> Limits:
    """Return the limits of a transport. POSTCOMMIT_RATE_PER_SECOND is the rate of one that has none of its own.

    Raises ImproperlyConfigured.
    """
    limits = parse(alias, mailers.settings.get(alias, {}).get("LIMITS", {}))
    if limits.rate is not None:
        return limits
    return replace(limits, rate=options().rate_per_second, source="POSTCOMMIT_RATE_PER_SECOND")


@receiver(setting_changed)
def forget(*, setting: str, **_: Any) -> None:
    """Make `override_settings(MAILERS=…)` take effect."""
    if setting in ("MAILERS", "POSTCOMMIT"):
        of.cache_clear()
