"""Translate the errors of Anymail, for the HTTP APIs of providers, to outcomes.

No other module imports Anymail, which is an extra.
"""

from __future__ import annotations  # without Anymail its names below do not exist

import re
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from mailer.conf import options
from mailer.models import PROVIDER_ID
from mailer.outcomes import (
    OutcomeUnknown,
    PermanentRefusal,
    Phase,
    Refusal,
    TransientRefusal,
    TransportDown,
)
from mailer.transports import staging
from mailer.transports.http import asked_pause

ERRORS: tuple[type[Exception], ...] = ()
BACKENDS: tuple[type[BaseEmailBackend], ...] = ()
if find_spec("anymail"):
    import requests
    from anymail.backends.base import AnymailBaseBackend
    from anymail.exceptions import AnymailAPIError, AnymailCancelSend, AnymailError, AnymailRecipientsRefused
    from anymail.signals import pre_send
    from urllib3.exceptions import NewConnectionError

    ERRORS, BACKENDS = (AnymailError,), (AnymailBaseBackend,)

LONGEST_ANSWER = 60.0
"""Seconds of silence after a request: the usual limit of the proxies before an API, which then answer 504 themselves."""
MISCONFIGURED = {401, 402, 403}
"""A wrong key, an unpaid bill, a sender or an IP range that is not allowed: the account's fault, not the message's."""
NOT_ABOUT_CONTENT = {404, 405, 420}
"""A wrong address of the API, or an unknown domain of the sender (Mailgun); 420: the account sends too much (Mailgun)."""
ABOUT_THE_ACCOUNT = re.compile(
    r'"ErrorCode":\s*(?:400|401|405|412|413)\b'  # Postmark: sender's signature, credits, pending approval, inactive server
    r"|sender signature|not allowed to send|pending approval|not verified|not been verified|unverified"
    r"|under.validation|not.(?:yet.)?activated|suspended|sending.?paused|disabled|LimitExceeded|AccountSending",
    re.IGNORECASE,
)
"""In a provider's refusal: it is about the account or its sender, as a refusal of MAIL would be, and not about the message."""
THROTTLED = re.compile(r"\b(?:Throttling|ThrottlingException|TooManyRequestsException|RequestLimitExceeded)\b")
"""Codes of Amazon with HTTP status 400."""

WITHOUT_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoRegionError"}
"""Exceptions of botocore."""

METADATA = "postcommit"
"""The name of our token in the metadata of a mail."""
WITHOUT_METADATA = {"MailerSend", "Postal"}
"""Anymail refuses a mail with metadata for them. Their reports name it by the provider's id, or by the Message-ID."""

REFUSED = {"invalid", "rejected", "failed"}
"""Anymail's statuses of a recipient that mean a refusal; the others are sent, queued and unknown."""


def bound(backend: BaseEmailBackend) -> None:
    """Bound the waits of a provider's backend. botocore must not repeat a request, which may have been accepted."""
    if not isinstance(backend, BACKENDS):
        return
    silence = options().smtp_timeout.total_seconds()
    backend.timeout = (silence, LONGEST_ANSWER)  # type: ignore[attr-defined]
    params = getattr(backend, "client_params", {})
    if config := params.get("config"):
        once = type(config)(connect_timeout=silence, read_timeout=LONGEST_ANSWER, retries={"total_max_attempts": 1})
        params["config"] = config.merge(once)


def connect() -> None:
    """Apply the staging settings to everything that Anymail sends, whether or not it comes from the outbox."""
    if BACKENDS:
        pre_send.connect(_before_send, dispatch_uid="mailer.staging")


def _before_send(sender: Any, message: EmailMessage, **_: Any) -> None:
    if not staging.let_through([message]):
        raise AnymailCancelSend


def translate(error: AnymailError) -> Refusal:
    """Translate an error of Anymail."""
    if isinstance(error, AnymailRecipientsRefused):
        statuses = {r.status for r in error.email_message.anymail_status.recipients.values()}
        return PermanentRefusal("", f"recipient {', '.join(sorted(statuses))}", address_unknown=statuses == {"invalid"})
    if not isinstance(error, AnymailAPIError):  # an address, an option or a value that the provider does not support
        return PermanentRefusal("", str(error))
    status = _http_status(error)
    text = _provider_text(error)
    if status is None:
        return _no_answer(error, text)
    return _answer(status, text, asked_pause(getattr(error.response, "headers", {})))


def _answer(status: int, text: str, retry_after: timedelta | None) -> Refusal:
    """Translate an HTTP status. Only one that refuses is certain: Anymail raises also for a success that it cannot read."""
    code = str(status)
    if status in MISCONFIGURED:
        return TransportDown(code, text, Phase.LOGIN, misconfigured=True)
    if status == 503:
        return TransportDown(code, text)
    if status == 429 or (status == 400 and THROTTLED.search(text)):
        return TransientRefusal(code, text, retry_after=retry_after)
    if not 400 <= status < 500 or status == 408:  # a server that failed or stopped waiting may have accepted it before
        return OutcomeUnknown(text, code)
    is_about_account = status in NOT_ABOUT_CONTENT or ABOUT_THE_ACCOUNT.search(text)
    return PermanentRefusal(code, text, Phase.MAIL if is_about_account else Phase.DOT)


def message_id(message: EmailMessage) -> str:
    """Return the part of the provider's answer that is stored: its id of the message."""
    status = getattr(message, "anymail_status", None)
    return stored_id(status.message_id) if status and status.message_id else ""


def stored_id(provider_id: object) -> str:
    """Return how an attempt stores the provider's id of the message."""
    return f"{PROVIDER_ID}{provider_id}"


def mark(message: EmailMessage, backend: BaseEmailBackend, token: str) -> None:
    """Have the provider name the message by our token in what it reports later, if its API can."""
    if isinstance(backend, BACKENDS) and backend.esp_name not in WITHOUT_METADATA:  # type: ignore[attr-defined]
        message.metadata = {**getattr(message, "metadata", {}), METADATA: token}  # type: ignore[attr-defined]


def refused(message: EmailMessage) -> dict[str, PermanentRefusal]:
    """Return the recipients that the provider refused while it accepted the message for others."""
    status = getattr(message, "anymail_status", None)  # a backend of Django does not set it
    recipients = status.recipients if status and status.recipients else {}
    return {
        address: PermanentRefusal("", f"recipient {answer.status}", address_unknown=answer.status == "invalid")
        for address, answer in recipients.items()
        if answer.status in REFUSED
    }


def _no_answer(error: AnymailAPIError, text: str) -> Refusal:
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.ProxyError) or _never_connected(error.__cause__):
        return TransportDown("", text)
    if type(error.__cause__).__name__ in WITHOUT_CREDENTIALS:
        return TransportDown("", text, Phase.LOGIN, misconfigured=True)
    if isinstance(error, requests.exceptions.SSLError):
        return TransportDown("", text, misconfigured=True)
    return OutcomeUnknown(text)


def _never_connected(cause: BaseException | None) -> bool:
    # requests wraps urllib3's MaxRetryError, whose reason shows whether the connection was refused or broke later.
    # botocore has its own exception classes for it.
    wrapped = cause.args[0] if cause is not None and cause.args else None
    return isinstance(getattr(wrapped, "reason", None), NewConnectionError) or (
        type(cause).__name__ in {"EndpointConnectionError", "ConnectTimeoutError"}
    )


def _http_status(error: AnymailAPIError) -> int | None:
    if isinstance(error.response, dict):  # boto3 answers with a dictionary
        status: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    return error.status_code  # type: ignore[no-any-return]


def _provider_text(error: AnymailAPIError) -> str:
    response: Any = error.response
    body = getattr(response, "text", None) if response is not None else None
    return " ".join((body or str(error.__cause__ or error)).split())[:500]
