"""The mailer's options: `settings.MAILER`, a dictionary whose values may be strings straight from the environment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from email.utils import parseaddr
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signals import setting_changed
from django.core.validators import DomainNameValidator, validate_email
from django.utils.encoding import punycode

from mailer.addresses import comparable, mailbox

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
    body_retention_days: int = 7
    """After how many days the body of a settled message that Django built is erased; its row stays."""
    max_message_size: int = 10_000_000
    """Bytes of the bodies and files of one message, before they are encoded, which adds a third."""
    redirect_all_to: str = ""
    """Staging: all mail goes to this address instead …"""
    allowed_recipients: tuple[str, ...] = ()
    """… but for mail to these addresses and domains. Without `redirect_all_to`, everybody else gets nothing. Both are kept
    in lower case, domains in ASCII."""
    subject_prefix: str = ""
    """Stands before every subject, as in `[staging]`."""
    dkim_keys: tuple[str, ...] = ()
    """`selector:path` of each private key that signs what leaves by SMTP (RFC 6376); nothing is signed without one."""
    dkim_domain: str = ""
    """The domain that signs; that of DEFAULT_FROM_EMAIL unless it is set."""
    inliner: Literal["css_inline", "premailer"] = "css_inline"
    """What moves the CSS of an HTML part into style attributes. They agree; css_inline is many times as fast."""

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
    return replace(
        options,
        redirect_all_to=_address("REDIRECT_ALL_TO", options.redirect_all_to) if options.redirect_all_to else "",
        allowed_recipients=tuple(map(_address_or_domain, options.allowed_recipients)),
    )


def _address(name: str, value: str) -> str:
    """The address as recipients are compared with it."""
    box = mailbox(value)
    try:
        validate_email(f"{box.username}@{box.domain}" if box else "")
    except ValidationError:
        box = None
    if box is None or box.display_name or "<" in value:
        raise ImproperlyConfigured(f"MAILER_{name}: {value!r} is no address; write one as in qa@example.com.")
    return comparable(box)


def _address_or_domain(value: str) -> str:
    name = "ALLOWED_RECIPIENTS"
    if "://" in value:
        raise ImproperlyConfigured(f"MAILER_{name}: {value!r} has a scheme; write the domain alone, as in example.com.")
    if value.startswith(("@", "*", ".")):
        raise ImproperlyConfigured(
            f"MAILER_{name}: write {value.lstrip('@*.')!r} for {value!r}; it covers that domain, and no subdomain of it."
        )
    if "@" in value:
        return _address(name, value)
    try:
        DomainNameValidator()(value)
        return punycode(value).lower().removesuffix(".")
    except (ValidationError, UnicodeError):
        raise ImproperlyConfigured(
            f"MAILER_{name}: {value!r} is neither an address nor a domain; write qa@example.com, or example.com."
        ) from None


def _convert(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return _one_of(name, value, get_args(kind))
    try:
        if kind is timedelta:
            return value if isinstance(value, timedelta) else timedelta(seconds=float(value))
        if kind == float | None:
            return _finite(value) if value not in (None, "") else None
        if kind is str:
            return str(value).strip()
        if kind == tuple[str, ...]:
            return _listed(name, value)
        return int(value)
    except (TypeError, ValueError, OverflowError):
        number = "a whole number" if kind is int else "a number"
        raise ImproperlyConfigured(f"MAILER_{name} must be {number}, not {value!r}.") from None


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ImproperlyConfigured(f"MAILER_{name} must be {' or '.join(choices)}, not {value!r}.")
    return str(value)


def _listed(name: str, value: Any) -> tuple[str, ...]:
    entries = tuple(filter(None, map(str.strip, value.split(",") if isinstance(value, str) else value)))
    if not entries and isinstance(value, str) and value.strip():  # a list of commas would count as no list at all
        raise ImproperlyConfigured(
            f"MAILER_{name} is set, and names nobody; leave it away, or write at least one entry."
        )
    return entries


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _check(options: Options) -> None:
    """Holds what the promises stand on: who gives up first, and that every bound is one."""
    for field in fields(Options):
        value = getattr(options, field.name)
        if (isinstance(value, timedelta) and value <= timedelta(0)) or (isinstance(value, int | float) and value <= 0):
            raise ImproperlyConfigured(f"MAILER_{field.name.upper()} must be more than 0.")
    if not options.subject_prefix.isprintable():
        raise ImproperlyConfigured("MAILER_SUBJECT_PREFIX must be one line.")
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


def sender_domain() -> str:
    """The domain of DEFAULT_FROM_EMAIL, as it may stand in header fields: in ASCII, also where it is written in Thai."""
    return punycode(parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2])


@lru_cache(maxsize=1)
def options() -> Options:
    """The options in force."""
    return parse(getattr(settings, "MAILER", {}))


@setting_changed.connect
def forget(*, setting: str, **_: Any) -> None:
    """Lets `override_settings(MAILER=…)` take effect."""
    if setting == "MAILER":
        options.cache_clear()
