"""Read settings from environment variables. An error names its variable and never shows the value, which may be a secret."""

import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode

import anymail.backends
import idna
import psycopg
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import validate_email
from django.http.request import split_domain_port
from environs import Env, EnvError, EnvValidationError
from psycopg.conninfo import conninfo_to_dict

from mailer import server_url
from mailer.server_url import HOW as HINT

KEY_LENGTH = 50

NEEDS_POSTGRES = (
    "PostgreSQL 15 or newer is needed, because workers share the mail by its row locks (SKIP LOCKED): "
    "postgres://user:password@host:5432/name"
)
KNOWN_TO_LIBPQ = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()} | {"ssl"}
"""`ssl=true` is `sslmode=require`, as Java has it."""
KOMBU_OPTIONS = ("global_keyprefix", "master_name")
"""Options that kombu does not take from the URL."""
BROKERS = ("redis", "rediss", "redis+socket", "sentinel")
NOT_PROVIDERS = {"base", "base_requests", "console", "test", "sendinblue"}
PROVIDERS = {module.name for module in pkgutil.iter_modules(anymail.backends.__path__)} - NOT_PROVIDERS
SHORT_NAMES = {"ses": "amazon_ses"}
SES_OPTIONS = {"configuration_set_name", "message_tag_name"}
"""Options of Anymail's own SES backend. All others go to the boto3 client (region_name, aws_access_key_id)."""

LIMITS = {"rate", "quota", "weight", "domains"}
"""Parameters of a transport's URL that are no options of its backend. `mailer.delivery.limits` parses and explains them."""

RATE_LIMIT = re.compile(
    r"\s*(\d{1,9})\s*(?:/|per)\s*(\d{1,5})?\s*(second|minute|hour|day)s?\s*", re.ASCII | re.IGNORECASE
)
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
MOST_EVENTS = 10_000
"""Of one window: each has its time in a row, which is written again with each event."""
LONGEST_WINDOW = 366 * SECONDS["day"]

Mailer = dict[str, Any]
"""One entry of Django's MAILERS: `{"BACKEND": …, "OPTIONS": …}`, with `"LIMITS": …` for the mailer."""


class Environment(Env):
    """environs with the parsers of this module. It collects errors until `seal()`."""

    def __init__(self) -> None:
        super().__init__(eager=False)
        parsers = (
            line,
            origin,
            hosts,
            secret_keys,
            logins,
            page,
            mail_address,
            rate_limits,
            database_url,
            redis_url,
            email_url,
        )
        for parser in parsers:
            self.add_parser(parser.__name__, partial(_without_spaces, parser))

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
    """A Redis server, with kombu's options."""

    url: str
    transport_options: dict[str, Any] = field(default_factory=dict)


def _without_spaces(parser: Callable[..., Any], value: str, **options: Any) -> Any:
    """A value that was pasted has spaces and line breaks around it."""
    return parser(value.strip(), **options)


def line(value: str) -> str:
    """Parse a text of one line."""
    if not value.isprintable():
        raise EnvError("write one line, without control characters")
    return value


def split(url: str) -> SplitResult:
    """Split the URL of a server. Raises EnvError if its user or password may be read wrongly. No error shows the URL."""
    return _explained(server_url.split, url)


def _explained[Read](read: Callable[[str], Read], url: str) -> Read:
    try:
        return read(url)
    except ValueError as error:
        raise EnvError(str(error)) from None


def _scheme(url: str) -> str:
    """Return the part before the first colon. A value without one may be a password, which no error may show."""
    return url.partition(":")[0].lower() if ":" in url else ""


def options_in(query: str) -> dict[str, str]:
    """Parse the part of a URL behind its `?`. A plus is a plus, as keys have it; a space is `%20`."""
    try:
        if "#" in query:
            raise ValueError
        pairs = parse_qsl(query.strip("&").replace("+", "%2B"), strict_parsing=bool(query.strip("&")), errors="strict")
    except ValueError:
        raise EnvError("behind the ? write name=value&name=value, and in a value & # % as %26 %23 %25") from None
    return dict(pairs)


def origin(value: str, *, local_only: bool = False) -> str:
    """Parse the base of every link: a URL without a path, such as `https://example.com`. Return it as browsers write it."""
    parts = _explained(server_url.split_any, value)
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
    if parts.scheme not in ("http", "https") or not parts.hostname or extra:
        raise EnvError("write only scheme and host, as in https://example.com")
    if local_only and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise EnvError(f"{parts.netloc} is not this machine, and DEBUG shows settings to every visitor: set DEBUG=0.")
    is_default = parts.port in (None, {"http": 80, "https": 443}[parts.scheme])
    return f"{parts.scheme}://{host(parts.hostname)}{'' if is_default else f':{parts.port}'}"


def host(name: str) -> str:
    """Return a host as browsers and Django write it: `xn--bcher-kva.example` for `Bücher.example.`, `[::1]` for `::1`."""
    try:
        if ":" in name:
            name = f"[{ip_address(name.strip('[]')).compressed}]"
        elif not name.isascii():
            name = idna.encode(name, uts46=True).decode()
    except ValueError:  # idna's errors are among them
        name = ""
    name = name.rstrip(".").lower()
    if not split_domain_port(name)[0]:
        raise EnvError("the host must be a domain of letters, digits, hyphens and dots, or an IP address")
    return name


def hosts(value: str) -> list[str]:
    """Parse hosts with commas between them. `.example.com` stands for its subdomains, too, and `*` for every host."""
    names = [name for name in map(str.strip, value.split(",")) if name]
    if any("/" in name for name in names):
        raise EnvError("write hosts without a scheme and a path, as in example.com,www.example.com")
    return [name if name == "*" else "." * name.startswith(".") + host(name.removeprefix(".")) for name in names]


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
    if value and not is_path and not _is_page(value):
        raise EnvError("write a URL, as in https://example.com/privacy, or a path, as in /privacy")
    return value


def _is_page(url: str) -> bool:
    parts = _explained(server_url.split_any, url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def mail_address(value: str) -> str:
    """Parse one e-mail address, or nothing."""
    try:
        if value:
            validate_email(value)
    except ValidationError:
        raise EnvError("write one address, as in support@example.com") from None
    return value


def rate_limits(value: str) -> list[tuple[int, int]]:
    """Read limits, as in `10/minute; 60/hour`. Return numbers of events, each with its seconds."""
    return [_rate_limit(each) for each in value.split(";")]


def _rate_limit(text: str) -> tuple[int, int]:
    found = RATE_LIMIT.fullmatch(text)
    if found is None:
        raise EnvError("write limits as in 10/minute; 60/hour")
    amount, seconds = int(found[1]), int(found[2] or 1) * SECONDS[found[3].lower()]
    if not 0 < amount <= MOST_EVENTS or not 0 < seconds <= LONGEST_WINDOW:
        raise EnvError(f"a limit is from 1 to {MOST_EVENTS} in at most 366 days, as in 60/hour")
    return amount, seconds


def database_url(url: str) -> dict[str, Any]:
    """Parse `postgres://user:password@host:5432/name?sslmode=…` as PostgreSQL's own library does, with several hosts, too.

    The option `disable_server_side_cursors` is Django's.
    """
    if _scheme(url) not in ("postgres", "postgresql", "pgsql"):
        raise EnvError(NEEDS_POSTGRES)
    address, _, query = _explained(server_url.normalized, url).partition("?")
    options = options_in(query)
    is_pooled = options.pop("disable_server_side_cursors", "false").lower() in ("true", "1", "yes")
    if unknown := options.keys() - KNOWN_TO_LIBPQ:
        raise EnvError(f"PostgreSQL's library has no option {min(unknown)!r}")
    try:
        found = conninfo_to_dict(f"postgresql{address[address.index(':') :]}?{urlencode(options, quote_via=quote)}")
    except psycopg.Error:  # its text shows parts of the URL
        raise EnvError(f"not a URL that PostgreSQL's library can read; {HINT}") from None
    ports = [port for port in str(found.get("port", "")).split(",") if port]
    if not all(port.isdecimal() and 0 < int(port) < 65_536 for port in ports):
        raise EnvError(f"a port must be a number up to 65535; {HINT}")
    if not found.keys() & {"dbname", "service"}:
        raise EnvError("name the database at the end of the address: postgres://user:password@host:5432/name")
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    database: dict[str, Any] = {name: found.pop(key, "") for name, key in names.items()}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "DISABLE_SERVER_SIDE_CURSORS": is_pooled,
        "OPTIONS": found,
    } | database


def redis_url(url: str) -> Broker:
    """Parse `redis://`, `rediss://`, `redis+socket://` and `sentinel://h1:p;sentinel://h2:p/0?master_name=…`.

    A `rediss://` address without `ssl_cert_reqs` gets `required`, because kombu would check no certificate. With the option
    `global_keyprefix`, which is kombu's, all keys begin with it: for a user that may use no others.
    """
    scheme = _scheme(url)
    if scheme not in BROKERS:
        raise EnvError(f"unknown scheme {scheme!r}; use one of {', '.join(f'{s}://' for s in BROKERS)}")
    servers = url.split(";") if scheme == "sentinel" else [url]
    url = ";".join(_explained(server_url.normalized, server) for server in servers)
    address, _, query = url.partition("?")
    options = options_in(query)
    found: dict[str, Any] = {name: options.pop(name) for name in KOMBU_OPTIONS if name in options}
    if scheme != "sentinel":
        split(url)
        if scheme == "rediss":
            options.setdefault("ssl_cert_reqs", "required")
        return Broker(f"{address}?{urlencode(options, quote_via=quote)}" if options else address, found)
    if "master_name" not in found:
        raise EnvError("a sentinel:// address needs ?master_name=… at its end")
    for each in address.split(";"):  # the first user and password are the server's, as in kombu; sentinels have none
        split(each)
    return Broker(address, found)


def email_url(url: str) -> Mailer:
    """Parse the URL of a transport: an SMTP server, or a provider of Anymail with its options as the query.

    `smtp://user:pass@host:587/?tls=1`, `smtps://user:pass@host`, `postmark:?server_token=…`, `ses:?region_name=…`, and for
    log-in with a token `smtp://user@host:587/?tls=1&oauth=microsoft&…`.
    """
    query = parse_qsl(url.partition("?")[2], keep_blank_values=True)  # a limit without a value is a mistake
    found = {name: text for name, text in query if name in LIMITS}
    return _without_limits(url) | ({"LIMITS": found} if found else {})


def _without_limits(url: str) -> Mailer:
    scheme = _scheme(url)
    if scheme in ("smtp", "smtps"):
        return _smtp(url, use_ssl=scheme == "smtps")
    provider = SHORT_NAMES.get(scheme, scheme)
    if provider not in PROVIDERS:
        known = ["smtp", "smtps", *SHORT_NAMES, *sorted(PROVIDERS)]
        close = get_close_matches(scheme, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        raise EnvError(f"unknown transport {scheme!r}; {hint}")
    options: dict[str, Any] = _options(url.partition("?")[2])
    if provider == "amazon_ses":
        client = {name: options.pop(name) for name in options.keys() - SES_OPTIONS}
        options |= {"client_params": client} if client else {}
    return {"BACKEND": f"anymail.backends.{provider}.EmailBackend", "OPTIONS": options}


def _options(query: str) -> dict[str, str]:
    """Parse the query, without what is for the mailer."""
    return {name: text for name, text in options_in(query).items() if name not in LIMITS}


def _smtp(url: str, *, use_ssl: bool) -> Mailer:
    parts = split(url)
    query = _options(parts.query)
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
