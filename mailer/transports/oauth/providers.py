"""The accounts that tokens are fetched for: Microsoft 365 by a client secret, Google by a key file or a refresh token.

The libraries are extras, and are imported when the first token is fetched: a web process may never need one.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qsl, urlsplit

from django.core.exceptions import ImproperlyConfigured

from mailer.transports.oauth.token import NoToken

MAIL = "https://mail.google.com/"
"""Google's scope for SMTP."""


class Provider(Protocol):
    """An account at a provider."""

    def fetch(self) -> tuple[str, timedelta]:
        """Return a new access token, and how long it is valid. Raises NoToken."""


@dataclass(slots=True)
class Microsoft:
    """An application of Microsoft Entra (client credentials: RFC 6749, 4.4)."""

    extra: ClassVar = "oauth-microsoft"
    modules: ClassVar = ("msal",)
    user: str
    tenant: str
    client_id: str
    client_secret: str = field(repr=False)
    authority: str = "https://login.microsoftonline.com"
    """Of a national cloud: another one, with its own scope."""
    scope: str = "https://outlook.office365.com/.default"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.tenant):
            raise ValueError("'tenant' must be the directory's id, or its domain, as in shop.onmicrosoft.com")
        if urlsplit(self.authority).scheme != "https" or not urlsplit(self.authority).hostname:
            raise ValueError("'authority' must be a URL that begins with https://")

    def fetch(self) -> tuple[str, timedelta]:
        """Return a new access token, and how long it is valid. Raises NoToken."""
        import msal

        try:
            # A new one each time, because the cache of an old one would give us the same token again.
            app = msal.ConfidentialClientApplication(
                self.client_id,
                client_credential=self.client_secret,
                authority=f"{self.authority.rstrip('/')}/{self.tenant}",
                instance_discovery=False,
                http_client=_MsalsClient(),
            )
            found = app.acquire_token_for_client(scopes=[self.scope])
        except ValueError:
            raise NoToken(f"{self.authority} gives no token now: its answer cannot be understood") from None
        return found["access_token"], timedelta(seconds=found["expires_in"])


@dataclass(slots=True)
class GoogleKeyFile:
    """A service account with domain-wide delegation, which acts for the user (RFC 7523)."""

    extra: ClassVar = "oauth-google"
    modules: ClassVar = ("google.auth", "requests")
    user: str
    key_file: str

    def __post_init__(self) -> None:
        try:
            key = json.loads(Path(self.key_file).read_text())
        except OSError as error:
            raise ValueError(f"'key_file' cannot be read: {error.strerror}") from None
        except ValueError:
            key = None
        if not isinstance(key, dict) or key.get("type") != "service_account" or not key.get("private_key"):
            raise ValueError("'key_file' is not the JSON key of a service account")

    def fetch(self) -> tuple[str, timedelta]:
        """Return a new access token, and how long it is valid. Raises NoToken."""
        from google.oauth2.service_account import Credentials

        try:
            credentials = Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
                self.key_file, scopes=[MAIL], subject=self.user
            )
        except (OSError, ValueError):
            raise NoToken("'key_file' of oauth cannot be read, or its key is damaged", misconfigured=True) from None
        return _refreshed(credentials)


@dataclass(slots=True)
class GoogleRefreshToken:
    """A user who once allowed a client to send mail for them (RFC 6749, 6)."""

    extra: ClassVar = "oauth-google"
    modules: ClassVar = ("google.auth", "requests")
    user: str
    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105

    def fetch(self) -> tuple[str, timedelta]:
        """Return a new access token, and how long it is valid. Raises NoToken."""
        from google.oauth2.credentials import Credentials

        credentials = Credentials(  # type: ignore[no-untyped-call]
            None,
            refresh_token=self.refresh_token,
            token_uri=self.token_uri,
            client_id=self.client_id,
            client_secret=self.client_secret,
        )
        found = _refreshed(credentials)
        self.refresh_token = credentials.refresh_token  # it may be a new one
        return found


Kind = type[Microsoft] | type[GoogleKeyFile] | type[GoogleRefreshToken]


def provider(user: str, options: Mapping[str, str]) -> Provider:
    """Return the account of `OPTIONS["oauth"]`. Raises ImproperlyConfigured, with a sentence that quotes no secret."""
    given = dict(options)
    name = given.pop("provider", None)
    if name == "microsoft":
        kind: Kind = Microsoft
    elif name == "google":
        kind = GoogleKeyFile if "key_file" in given else GoogleRefreshToken
    else:
        raise ImproperlyConfigured(f"'oauth' is for microsoft or google, not {name!r}.")
    if wrong := _wrong_options(kind, given):
        raise ImproperlyConfigured(f"oauth of {name} {wrong}.")
    if missing := [module for module in kind.modules if not _is_installed(module)]:
        raise ImproperlyConfigured(
            f"oauth of {name} needs {missing[0]}, which is not installed: pip install django-postcommit[{kind.extra}]"
        )
    try:
        return kind(user, **given)
    except ValueError as error:
        raise ImproperlyConfigured(f"oauth of {name}: {error}.") from None


def _wrong_options(kind: Kind, given: Mapping[str, str]) -> str:
    """Say which option is unknown or missing; empty if none is."""
    known = {each.name: each.default is MISSING for each in fields(kind) if each.name != "user"}
    if unknown := sorted(given.keys() - known.keys()):
        return f"has no option {unknown[0]!r}; it has {', '.join(known)}"
    needed = [name for name, is_needed in known.items() if is_needed]
    if missing := [name for name in needed if not given.get(name)]:
        instead = ", or key_file" if kind is GoogleRefreshToken else ""
        return f"needs {', '.join(needed)}{instead}; {missing[0]!r} is missing"
    return ""


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False


def _ask(*request: str, **options: Any) -> Any:
    from mailer.transports.oauth.endpoint import ask  # it needs requests, which comes with the extras

    return ask(*request, **options)


class _MsalsClient:
    """What msal takes for a session of requests."""

    def get(self, url: str, *, params: Any = None, headers: Any = None, **_: Any) -> Any:
        return _ask("GET", url, params=params, headers=headers)

    def post(self, url: str, *, params: Any = None, headers: Any = None, data: Any = None, **_: Any) -> Any:
        return _ask("POST", url, params=params, headers=headers, data=data)

    def close(self) -> None:
        """Called by msal."""


def _refreshed(credentials: Any) -> tuple[str, timedelta]:
    """Fetch a token by google-auth, whose own transport would wait and repeat."""
    from google.auth.exceptions import GoogleAuthError

    def request(url: str, method: str = "GET", body: bytes = b"", headers: Any = None, **_: Any) -> Any:
        return _ask(method, url, headers=headers, data=dict(parse_qsl(body.decode())))

    try:
        credentials.refresh(request)
    except GoogleAuthError as error:  # not for an answer of the endpoint, which `ask` has judged
        raise NoToken(
            f"google-auth makes no token from these options: {type(error).__name__}", misconfigured=True
        ) from None
    return credentials.token, credentials.expiry - datetime.now(UTC).replace(tzinfo=None)
