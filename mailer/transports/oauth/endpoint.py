"""Ask a token endpoint over HTTPS, for the libraries that know what to ask: in bounded time, without a word about secrets.

They see only answers that are in order. All else becomes NoToken here, so that it is judged and worded in one place.
"""

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

import requests

from mailer.conf import options
from mailer.transports.http import asked_pause
from mailer.transports.oauth.sasl import LONG_WORDS
from mailer.transports.oauth.token import NoToken

LONGEST_CONNECT = 5.0
"""Seconds for each address of an endpoint. Microsoft's has eight, which are tried one after the other."""
LONGEST_BODY = 32_768
"""Octets. A token has some thousands."""
LONGEST_DESCRIPTION = 300
"""Characters."""
LONGEST_LIFE = 86_400
"""Seconds. Google's and Microsoft's tokens live for about an hour, at most a day."""
SHORTEST_LIFE = 60
"""Seconds; for a token of which the endpoint does not say it."""
SECRETS = ("client_secret", "client_assertion", "refresh_token", "assertion")
"""Fields of a request that no text may repeat."""
FOR_NOW = {"temporarily_unavailable", "server_error", "internal_failure", "slow_down", "rate_limit_exceeded"}
"""Errors of an endpoint that are nobody's fault."""
ADVICE = {
    "invalid_client": "check client_id and client_secret; a secret that has expired must be replaced by a new one",
    "invalid_grant": "check the user; if the key or the refresh token was revoked or has expired, make a new one",
    "unauthorized_client": "an administrator must allow this client to send mail for the user",
    "access_denied": "an administrator must allow this client to send mail for the user",
    "admin_policy_enforced": "an administrator must allow this client to send mail for the user",
    "invalid_scope": "an administrator must allow this client to send mail for the user",
    "invalid_tenant": "check tenant",
}
"""What to do, by the error of RFC 6749, 5.2, or of Google and Microsoft."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is in order, in the form of msal and in that of google-auth."""

    text: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    status_code: int = 200

    @property
    def status(self) -> int:
        return self.status_code

    @property
    def data(self) -> bytes:
        return self.text.encode()

    def raise_for_status(self) -> None:
        """Called by msal."""


def ask(
    method: str, url: str, *, headers: Any = None, params: Any = None, data: Mapping[str, str] | None = None
) -> Answer:
    """Ask for a token (POST), or for the addresses of an endpoint (GET). Raises NoToken."""
    host = urlsplit(url).netloc
    if not url.startswith("https://"):
        raise NoToken(f"the address of a token endpoint must begin with https://, not {url[:40]!r}", misconfigured=True)
    silence = options().smtp_timeout.total_seconds()
    sent: dict[str, Any] = {"headers": headers, "params": params, "data": data}
    try:
        with (
            requests.Session() as session,
            session.request(
                method,
                url,
                timeout=(min(LONGEST_CONNECT, silence), silence),
                stream=True,
                allow_redirects=False,
                **sent,
            ) as response,
        ):
            return _judge(method, host, response, _as_json(_read(response, within=silence)), data or {})
    except (requests.RequestException, OSError, ValueError) as error:
        if isinstance(error, NoToken):
            raise
        raise _not_answered(host, error) from None  # its own text quotes the request


def _read(response: requests.Response, within: float) -> bytes:
    body, ends = b"", time.monotonic() + within
    for piece in response.iter_content(1):  # it would wait for all of a larger piece, and a time-out is for each octet
        body += piece
        if len(body) > LONGEST_BODY:
            raise ValueError
        if time.monotonic() > ends:
            raise TimeoutError
    return body


def _as_json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _not_answered(host: str, error: Exception) -> NoToken:
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return NoToken(f"{host} has no certificate that this machine trusts", misconfigured=True)
    if isinstance(error, requests.Timeout | TimeoutError):
        return NoToken(f"{host} gives no token now: no answer in time")
    if isinstance(error, OSError) and not isinstance(error, ValueError):
        return NoToken(f"{host} gives no token now: no connection, or it broke")
    return NoToken(f"{host} gives no token now: its address or its answer cannot be understood")


def _judge(
    method: str, host: str, response: requests.Response, said: Mapping[str, Any], sent: Mapping[str, str]
) -> Answer:
    """Return an answer that is in order. Raises NoToken."""
    status, error = response.status_code, said.get("error")
    if status == 429 or status >= 500 or (isinstance(error, str) and error in FOR_NOW):
        raise NoToken(f"{host} gives no token now (HTTP {status})", pause=asked_pause(response.headers))
    if error:
        raise NoToken(_refusal(host, said, sent), misconfigured=True)
    with suppress(KeyError, ValueError, TypeError, OverflowError):
        if status == 200:
            return Answer(json.dumps(_token(said) if method == "POST" else _addresses(said)))
    raise NoToken(f"{host} gives no token now: its answer cannot be understood (HTTP {status})")


def _token(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the libraries need. Raises ValueError and others if it is not there."""
    if not re.fullmatch(r"[\x21-\x7e]+", said["access_token"]):  # RFC 6749, A.12; a control character would end it
        raise ValueError
    life = min(max(0, int(said.get("expires_in", SHORTEST_LIFE))), LONGEST_LIFE)
    token = {"access_token": said["access_token"], "expires_in": life, "token_type": "Bearer"}
    return token | ({"refresh_token": str(said["refresh_token"])} if said.get("refresh_token") else {})


def _addresses(said: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(said[name]) for name in ("authorization_endpoint", "token_endpoint")}


def _refusal(host: str, said: Mapping[str, Any], sent: Mapping[str, str]) -> str:
    error, described = (_without_secrets(str(said.get(name, "")), sent) for name in ("error", "error_description"))
    advice = ADVICE.get(error, "check the options of oauth")
    return f"{host} refuses a token ({error[:60]}): {advice}. {described[:LONGEST_DESCRIPTION]}".rstrip()


def _without_secrets(text: str, sent: Mapping[str, str]) -> str:
    for secret in filter(None, map(sent.get, SECRETS)):
        for written in (secret, quote(secret, ""), quote_plus(secret)):
            text = text.replace(written, "***")
    return LONG_WORDS.sub("***", " ".join(text.split()))
