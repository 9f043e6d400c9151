"""Read settings from environment variables. An error names its variable and never shows the value, which may be a secret."""

import pkgutil
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

import anymail.backends
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import validate_email
from environs import Env, EnvError, EnvValidationError
from limits import parse_many

KEY_LENGTH = 50
HINT = "write @ : / in a user or password as %40 %3A %2F"

BROKERS = ("redis", "rediss", "redis+socket", "sentinel")
NOT_PROVIDERS = {"base", "base_requests", "console", "test", "sendinblue"}
PROVIDERS = {module.name for module in pkgutil.iter_modules(anymail.backends.__path__)} - NOT_PROVIDERS
SHORT_NAMES = {"ses": "amazon_ses"}
SES_OPTIONS = {"configuration_set_name", "message_tag_name"}
"""Options of Anymail's own SES backend. All others go to the boto3 client (region_name, aws_access_key_id)."""

LIMITS = {"rate", "quota", "weight", "domains"}
"""Parameters of a transport's URL that are no options of its backend. `mailer.delivery.limits` parses and explains them."""

Mailer = dict[str, Any]
"""One entry of Django's MAILERS: `{"BACKEND": …, "OPTIONS": …}`, with `"LIMITS": …` for the mailer."""


class Environment(Env):
    """environs with the parsers of this module. It collects errors until `seal()`."""

    def __init__(self) -> None:
        super().__init__(eager=False)
        for parser in (origin, secret_keys, logins, page, mail_address, rate_limits, redis_url, email_url):
            self.add_parser(parser.__name__, parser)

    def seal(self) -> None:
        """Raise ImproperlyConfigured, with one sentence for each variable that is missing or invalid."""
        try:
            super().seal()
        except EnvValidationError as error:
            messages: Any = error.error_messages
            broken = (f"{name}: {' '.join(map(str, reasons))}" for name, reasons in messages.items())
            raise ImproperlyConfigured("The environment is not usable. " + " | ".join(broken)) from None


@dataclass(frozen=True, slots=True)
class Broker:
    """A Redis server: `url` with options for kombu, and `limits_url` with options for the library `limits`."""

    url: str
    limits_url: str
    transport_options: dict[str, Any] = field(default_factory=dict)
    limits_options: dict[str, Any] = field(default_factory=dict)


def split(url: str) -> SplitResult:
    """Split a URL. Raises EnvError without the URL in it; urlsplit's own errors show the URL, and so its password."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError as well
    except ValueError:
        raise EnvError(f"not a URL with a host and a port that is a number; {HINT}") from None
    return parts


def origin(value: str, *, local_only: bool = False) -> str:
    """Parse the base of every link: a URL without a path, such as `https://example.com`."""
    parts = split(value)
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in ("http", "https") or not parts.hostname or extra:
        raise EnvError("write only scheme and host, as in https://example.com")
    if local_only and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise EnvError(f"{parts.netloc} is not this machine, and DEBUG shows settings to every visitor: set DEBUG=0.")
    return f"{parts.scheme}://{parts.netloc}"


def secret_keys(value: str) -> list[str]:
    """Parse keys with commas between them. A short key could be guessed."""
    keys = [key for key in value.split(",") if key]
    if any(len(key) < KEY_LENGTH for key in keys):
        raise EnvError(f"each key needs at least {KEY_LENGTH} characters")
    return keys


def logins(value: str) -> list[str]:
    """Parse `user:password`, or several with commas between them."""
    found = [login for login in value.split(",") if login]
    if not all(re.fullmatch(r"[^:]+:.+", login) for login in found):
        raise EnvError("write user:password, or several with commas between them")
    return found


def page(value: str) -> str:
    """Parse the address of a page: a URL, a path on this site, or nothing."""
    is_path = value.startswith("/") and not value.startswith("//")
    if value and not is_path and not (split(value).scheme in ("http", "https") and split(value).hostname):
        raise EnvError("write a URL, as in https://example.com/privacy, or a path, as in /privacy")
    return value


def mail_address(value: str) -> str:
    """Parse one e-mail address, or nothing."""
    try:
        if value:
            validate_email(value)
    except ValidationError:
        raise EnvError("write one address, as in support@example.com") from None
    return value


def rate_limits(value: str) -> str:
    """Check one or more limits, as in `10/minute; 60/hour`."""
    try:
        parse_many(value)
    except ValueError:
        raise EnvError("write limits as in 10/minute; 60/hour") from None
    return value


def redis_url(url: str) -> Broker:
    """Parse `redis://`, `rediss://`, `redis+socket://` and `sentinel://h1:p;sentinel://h2:p/0?master_name=…`.

    A `rediss://` address without `ssl_cert_reqs` gets `required`, because kombu would check no certificate.
    """
    scheme = url.partition(":")[0]
    if scheme not in BROKERS:
        raise EnvError(f"unknown scheme {scheme!r}; use one of {', '.join(f'{s}://' for s in BROKERS)}")
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query))
    if scheme == "sentinel":
        return _sentinel(address, options.get("master_name"))
    split(url)
    if scheme == "redis+socket":
        path = address.removeprefix("redis+socket")
        return Broker(url, f"redis+unix{path}?db={options.get('virtual_host', '0')}")
    if scheme == "rediss" and "ssl_cert_reqs" not in options:
        options["ssl_cert_reqs"] = "required"
        url += f"{'&' if '?' in url else '?'}ssl_cert_reqs=required"
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    if not tls:  # all other options are kombu's
        return Broker(url, address)
    tls["ssl_cert_reqs"] = tls.get("ssl_cert_reqs", "required").removeprefix("CERT_").lower()
    return Broker(url, f"rediss:{address.partition(':')[2]}?{urlencode(tls)}")


def _sentinel(address: str, master_name: str | None) -> Broker:
    """The first user and password belong to the server, as in kombu; sentinels have none."""
    if not master_name:
        raise EnvError("a sentinel:// address needs ?master_name=… at its end")
    sentinels = [split(each) for each in address.split(";")]
    hosts = [(each.netloc.rpartition("@")[2], each.port) for each in sentinels]
    locations = ",".join(host if port else f"{host}:26379" for host, port in hosts)
    login = {"username": unquote(sentinels[0].username or ""), "password": unquote(sentinels[0].password or "")}
    return Broker(
        url=address,
        limits_url=f"redis+sentinel://{locations}/{master_name}",
        transport_options={"master_name": master_name},
        limits_options={"sentinel_kwargs": dict.fromkeys(login)} | {name: text for name, text in login.items() if text},
    )


def email_url(url: str) -> Mailer:
    """Parse the URL of a transport: an SMTP server, or a provider of Anymail with its options as the query.

    `smtp://user:pass@host:587/?tls=1`, `smtps://user:pass@host`, `postmark:?server_token=…`, `ses:?region_name=…`, and for
    log-in with a token `smtp://user@host:587/?tls=1&oauth=microsoft&…`.
    """
    limits = {name: text for name, text in parse_qsl(split(url).query, keep_blank_values=True) if name in LIMITS}
    return _without_limits(url) | ({"LIMITS": limits} if limits else {})


def _without_limits(url: str) -> Mailer:
    scheme = url.partition(":")[0].lower()
    if scheme in ("smtp", "smtps"):
        return _smtp(url, use_ssl=scheme == "smtps")
    provider = SHORT_NAMES.get(scheme, scheme)
    if provider not in PROVIDERS:
        known = ["smtp", "smtps", *SHORT_NAMES, *sorted(PROVIDERS)]
        close = get_close_matches(scheme, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        raise EnvError(f"unknown transport {scheme!r}; {hint}")
    options: dict[str, Any] = _options(split(url))
    if provider == "amazon_ses":
        client = {name: options.pop(name) for name in options.keys() - SES_OPTIONS}
        options |= {"client_params": client} if client else {}
    return {"BACKEND": f"anymail.backends.{provider}.EmailBackend", "OPTIONS": options}


def _options(parts: SplitResult) -> dict[str, str]:
    """Return the query without what is for the mailer."""
    return {name: text for name, text in parse_qsl(parts.query) if name not in LIMITS}


def _smtp(url: str, *, use_ssl: bool) -> Mailer:
    parts = split(url)
    query = _options(parts)
    use_tls = query.pop("tls", "0") in ("1", "true", "yes")
    oauth = {"provider": query.pop("oauth"), **query} if "oauth" in query else None  # the mailer checks its options
    if query and not oauth:
        raise EnvError(
            f"unknown option {min(query)!r} of an SMTP transport; it has tls=1, {', '.join(sorted(LIMITS))}, and oauth=… "
            "with options of its own"
        )
    if not parts.hostname:
        raise EnvError("an SMTP transport needs a host: smtp://user:password@host:587/?tls=1")
    if use_ssl and use_tls:
        raise EnvError("smtps:// is encrypted from the start; remove tls=1, or write smtp:// with tls=1")
    if oauth and (parts.password or not parts.username):
        raise EnvError(f"with oauth=… an SMTP transport needs the mailbox as its user, and no password; {HINT}")
    if not oauth and bool(parts.username) != bool(parts.password):
        raise EnvError(f"an SMTP transport needs a user and a password, or neither; {HINT}")
    options = {
        "host": parts.hostname,
        "port": parts.port,
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "use_tls": use_tls,
        "use_ssl": use_ssl,
    } | ({"oauth": oauth} if oauth else {})
    return {"BACKEND": "mailer.transports.smtp.EmailBackend", "OPTIONS": options}
