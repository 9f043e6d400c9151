"""The settings of the mailer: one flat dictionary, `settings.POSTCOMMIT`, whose values may be strings of the environment."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from email.utils import parseaddr
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, get_args, get_origin

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signals import setting_changed
from django.core.validators import validate_email
from django.dispatch import receiver

from mailer.addresses import as_compared, domain_in_ascii, mailbox
from mailer.server_url import HOW, split

HORIZON = timedelta(seconds=60)
"""Celery keeps a countdown in a worker's memory, and repeats it when it outlasts the broker's visibility timeout. A message
that is due later than this waits in PostgreSQL."""

SECRET = re.compile(r"[\w.~+/=-]{20,}", re.ASCII)
"""What a bearer token may consist of (RFC 6750, 2.1), and long enough that it cannot be guessed."""


ADDRESSES = ("SUPPORT_ADDRESS", "REDIRECT_ALL_TO", "BOUNCE_ADDRESS")
"""Settings that are one address."""


LONGEST_BOUNCE_LOCAL = 64 - len("+-") - 19 - 16
"""What is left of a local part (RFC 5321, 4.5.3.1.1) beside the token of `transports.verp`."""


@dataclass(frozen=True, slots=True)
class Options:
    """One field for each setting: `smtp_timeout` is `POSTCOMMIT["SMTP_TIMEOUT"]`. Durations are written in seconds."""

    backoff_base: timedelta = timedelta(seconds=10)
    """The first pause after a refusal for now; each further pause is twice as long."""
    backoff_max: timedelta = timedelta(seconds=3600)
    """The longest pause."""
    sweep_every: timedelta = timedelta(seconds=5)
    """The time between two sweeps, which find overdue messages and the claims of dead workers."""
    smtp_timeout: timedelta = timedelta(seconds=15)
    """The longest silence of a mail server before the end of the message. Its last answer may take 10 minutes (RFC 5321)."""
    rate_per_second: float | None = None
    """Messages per second for each transport that has no `rate` of its own, over all workers; unlimited unless it is set."""
    retention_days: int = 90
    """Days until a settled message is deleted, 36500 at most."""
    body_retention_days: int = 7
    """Days until the body of a settled message that Django built is deleted. Its row stays."""
    max_message_size: int = 10_000_000
    """Bytes of the bodies and files of one message, before encoding, which adds a third."""
    support_address: str = ""
    """The address for questions, in the footer of every mail."""
    bounce_address: str = ""
    """The address for bounces of mail sent by SMTP, as in bounces@example.com. Each mail gets its own, with `+` and a signed
    token before the @. Without it bounces go to the sender of the mail."""
    bounce_mailbox: str = ""
    """The mailbox to which these bounces come, as in imaps://user:password@mail.example.com/INBOX, with % codes for special
    characters. It is read once a minute. It is a secret."""
    redirect_all_to: str = ""
    """Test systems: all mail goes to this address, except mail to `ALLOWED_RECIPIENTS`."""
    allowed_recipients: tuple[str, ...] = ()
    """Test systems: addresses and domains, with commas between them, that get their mail. Without `REDIRECT_ALL_TO`, other
    recipients get none."""
    subject_prefix: str = ""
    """Test systems: a text before every subject, such as `[staging]`."""
    dkim_keys: tuple[str, ...] = ()
    """The private keys that sign mail sent by SMTP (RFC 6376), each as `selector:path`, with commas between them."""
    dkim_domain: str = ""
    """The signing domain; the domain of `DEFAULT_FROM_EMAIL` unless it is set."""
    inliner: Literal["css_inline", "premailer"] = "css_inline"
    """The library that moves CSS into style attributes. Both give the same result; css_inline is many times faster."""
    metrics_token: str = ""
    """The token that Prometheus sends to `/metrics`, 20 characters at least. Without it there is no such page."""
    healthcheck_ping_url: str = ""
    """A URL that a worker asks for once a minute, of a service that rings when nobody does. It is a secret."""
    health_file: str = ""
    """A file that a worker touches every 2 seconds while database and broker answer it, for a container's health check."""


def parse(raw: Mapping[str, Any]) -> Options:
    """Convert `{"RETENTION_DAYS": "5"}` to Options. Raises ImproperlyConfigured with a sentence that names the setting."""
    kinds = {field.name.upper(): field.type for field in fields(Options)}
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in kinds:
            close = get_close_matches(name, kinds, n=1) or list(kinds)
            raise ImproperlyConfigured(
                f"POSTCOMMIT_{name} is not a setting. Did you mean {' or '.join(f'POSTCOMMIT_{each}' for each in close)}?"
            )
        try:
            values[name.lower()] = _convert(name, value, kinds[name])
        except (ValueError, OverflowError) as error:
            raise ImproperlyConfigured(f"POSTCOMMIT_{name} {error}, not {value!r}.") from None
    options = Options(**values)
    _check_together(options)
    return options


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Raises ValueError, which says what was expected, as in "must be a whole number"."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"must be {' or '.join(get_args(kind))}")
        return value
    if kind == tuple[str, ...]:
        return _entries(name, value)
    if kind is str:
        text = str(value).strip()
        return _recipient(text, may_be_domain=False) if name in ADDRESSES and text else text
    if kind == float | None and value in (None, ""):
        return None
    try:
        number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("must be a number above 0")
    if kind is not int:
        return timedelta(seconds=number) if kind is timedelta else number
    if number != int(number):
        raise ValueError("must be a whole number")
    return int(number)


def _entries(name: str, value: Any) -> tuple[str, ...]:
    entries = tuple(filter(None, map(str.strip, value.split(",") if isinstance(value, str) else value)))
    if not entries and isinstance(value, str) and value.strip():  # only commas: the setting would have no effect
        raise ValueError("must have at least one entry")
    return tuple(map(_recipient, entries)) if name == "ALLOWED_RECIPIENTS" else entries


def _recipient(value: str, *, may_be_domain: bool = True) -> str:
    """Return an address or a domain in the form in which recipients are compared."""
    is_domain = may_be_domain and "@" not in value
    box = mailbox(f"any@{value}" if is_domain else value)
    try:
        validate_email(f"{box.username}@{box.domain}" if box and "<" not in value and not box.display_name else "")
    except ValidationError:
        domain = ", or a domain without its subdomains, as in example.com" if may_be_domain else ""
        raise ValueError(f"must be an address, as in qa@example.com{domain}") from None
    assert box is not None
    return box.domain if is_domain else as_compared(box)


def _check_together(options: Options) -> None:
    if not options.subject_prefix.isprintable():
        raise ImproperlyConfigured("POSTCOMMIT_SUBJECT_PREFIX must be one line.")
    if options.retention_days > 36_500:
        raise ImproperlyConfigured("POSTCOMMIT_RETENTION_DAYS must be 36500 at most.")
    local = options.bounce_address.rpartition("@")[0]
    if len(local) > LONGEST_BOUNCE_LOCAL or not local.isascii() or '"' in local:
        raise ImproperlyConfigured(
            f"POSTCOMMIT_BOUNCE_ADDRESS must have {LONGEST_BOUNCE_LOCAL} plain characters at most before its @."
        )
    if options.bounce_mailbox and not _is_mailbox(options.bounce_mailbox):
        raise ImproperlyConfigured(
            f"POSTCOMMIT_BOUNCE_MAILBOX must be a URL, as in imaps://user:password@mail.example.com/INBOX; {HOW}"
        )
    ping_url = options.healthcheck_ping_url
    if ping_url and ("@" in ping_url or not _is_url(ping_url, "https", "http")):
        raise ImproperlyConfigured(
            "POSTCOMMIT_HEALTHCHECK_PING_URL must be a URL, as in https://hc-ping.com/…, without user and password, and with "
            "%40 %23 for @ and #."
        )
    if options.metrics_token and not SECRET.fullmatch(options.metrics_token):
        raise ImproperlyConfigured(
            "POSTCOMMIT_METRICS_TOKEN must have 20 characters at least: letters, digits and - . _ ~ + / = only."
        )
    for extra, module, used in (
        ("premailer", "premailer", options.inliner == "premailer" and "POSTCOMMIT_INLINER is premailer"),
        ("dkim", "dkim", options.dkim_keys and "POSTCOMMIT_DKIM_KEYS needs dkimpy"),
        ("dkim", "cryptography", options.dkim_keys and "POSTCOMMIT_DKIM_KEYS needs cryptography"),
        ("imap", "imapclient", options.bounce_mailbox and "POSTCOMMIT_BOUNCE_MAILBOX needs imapclient"),
        ("metrics", "prometheus_client", options.metrics_token and "POSTCOMMIT_METRICS_TOKEN needs prometheus-client"),
    ):
        if used and not find_spec(module):
            raise ImproperlyConfigured(f"{used}, which is not installed: pip install django-postcommit[{extra}]")


def _is_mailbox(url: str) -> bool:
    return _is_url(url, "imaps", "imap") and bool(split(url).username and split(url).password)


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = split(text)
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0


def sender_domain() -> str:
    """Return the domain of DEFAULT_FROM_EMAIL in ASCII, as header fields need it."""
    return _domain_of(settings.DEFAULT_FROM_EMAIL)


@lru_cache(maxsize=8)
def _domain_of(mailbox: str) -> str:  # to parse it takes a third of what a new row takes
    return domain_in_ascii(parseaddr(mailbox)[1].rpartition("@")[2])


@lru_cache(maxsize=1)
def options() -> Options:
    """Return the settings in force. Raises ImproperlyConfigured."""
    return parse(getattr(settings, "POSTCOMMIT", {}))


@receiver(setting_changed)
def forget(*, setting: str, **_: Any) -> None:
    """Make `override_settings(POSTCOMMIT=…)` take effect."""
    if setting == "POSTCOMMIT":
        options.cache_clear()
