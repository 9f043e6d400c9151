"""EMAIL_URL → one entry of Django's MAILERS.

`smtp://user:pass@host:587/?tls=1`, `smtps://user:pass@host`, or an Anymail provider with its options as a query:
`postmark:?server_token=…`, `mailgun:?api_key=…&sender_domain=…`, `ses:?region_name=…`.
"""

import pkgutil
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, unquote

import anymail.backends
from environs import EnvError

from config.split_url import HINT, split

NOT_PROVIDERS = {"base", "base_requests", "console", "test", "sendinblue"}
PROVIDERS = {module.name for module in pkgutil.iter_modules(anymail.backends.__path__)} - NOT_PROVIDERS
SHORT_NAMES = {"ses": "amazon_ses"}
SES_OPTIONS = {"configuration_set_name", "message_tag_name"}
"""Options of Anymail's own SES backend; every other one belongs to the boto3 client (region_name, aws_access_key_id)."""

Mailer = dict[str, Any]


def parse(url: str) -> Mailer:
    """Returns `{"BACKEND": …, "OPTIONS": …}`.

    Raises EnvError with a sentence that says what is wrong; the sentence never holds the URL, which holds a password.
    """
    scheme = url.partition(":")[0].lower()
    if scheme in ("smtp", "smtps"):
        return _smtp(url, use_ssl=scheme == "smtps")
    provider = SHORT_NAMES.get(scheme, scheme)
    if provider not in PROVIDERS:
        known = ["smtp", "smtps", *SHORT_NAMES, *sorted(PROVIDERS)]
        close = get_close_matches(scheme, known, n=1)
        raise EnvError(
            f"unknown transport {scheme!r}; "
            + (f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}")
        )
    options: dict[str, Any] = dict(parse_qsl(split(url).query))
    if provider == "amazon_ses":
        client = {name: options.pop(name) for name in options.keys() - SES_OPTIONS}
        options |= {"client_params": client} if client else {}
    return {"BACKEND": f"anymail.backends.{provider}.EmailBackend", "OPTIONS": options}


def _smtp(url: str, *, use_ssl: bool) -> Mailer:
    parts = split(url)
    query = dict(parse_qsl(parts.query))
    use_tls = query.pop("tls", "0") in ("1", "true", "yes")
    if query:
        raise EnvError(f"unknown option {min(query)!r} of an SMTP transport; the only one is tls=1")
    if not parts.hostname:
        raise EnvError("an SMTP transport needs a host: smtp://user:password@host:587/?tls=1")
    if use_ssl and use_tls:
        raise EnvError("smtps:// is encrypted from its first byte; leave tls=1 away, or use smtp:// with it")
    if bool(parts.username) != bool(parts.password):
        raise EnvError(f"an SMTP transport needs both a user and a password, or neither; {HINT}")
    options = {
        "host": parts.hostname,
        "port": parts.port,
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "use_tls": use_tls,
        "use_ssl": use_ssl,
    }
    return {"BACKEND": "mailer.transports.smtp.EmailBackend", "OPTIONS": options}
