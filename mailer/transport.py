"""One open connection per thread and transport, and every answer as an Outcome. Decides nothing."""

import threading
import time
from dataclasses import replace

import structlog
from anymail.exceptions import AnymailError
from django.core.mail import EmailMessage, mailers
from django.core.mail.backends.base import BaseEmailBackend

from mailer import provider_api, smtp
from mailer.conf import options
from mailer.masking import mask
from mailer.outcomes import Accepted, Outcome, OutcomeUnknown, PermanentRefusal, TransientRefusal, TransportDown

log = structlog.get_logger("mailer.transport")

PRIMARY = "transport"
FALLBACK = "fallback"
"""Aliases in MAILERS; the second one need not be there."""

_open = threading.local()
"""alias → backend. Backends have no locks of their own, hence one per thread; a forked worker has none from its parent, who
never sends."""


def aliases() -> list[str]:
    """The transports that there are, the preferred one first."""
    return [alias for alias in (PRIMARY, FALLBACK) if alias in mailers]


def transmit(message: EmailMessage, alias: str = PRIMARY) -> Outcome:
    """Sends one message through `MAILERS[alias]` and says what became of it.

    Raises nothing: an outcome is never lost.
    """
    deadline = time.monotonic() + options().conversation_limit.total_seconds()
    backend, is_fresh = _connection(alias)
    outcome = _converse(backend, message, deadline)
    if isinstance(outcome, TransportDown) and not is_fresh:
        close(alias)  # an idle connection that the server had closed; it says nothing about the server
        backend, _ = _connection(alias)
        outcome = _converse(backend, message, deadline)
    if not isinstance(outcome, Accepted):
        close(alias)  # after an error Django's backend would keep the dead connection
    return replace(outcome, text=mask(outcome.text.replace("\0", "\ufffd")))  # PostgreSQL takes every character but NUL


def close(alias: str) -> None:
    """Closes this thread's connection to the transport, if there is one."""
    backend = _backends().pop(alias, None)
    if backend is None:
        return
    try:
        backend.close()
    except OSError as error:
        log.debug("the connection did not close cleanly", transport=alias, error=type(error).__name__)


def _connection(alias: str) -> tuple[BaseEmailBackend, bool]:
    backends = _backends()
    is_fresh = alias not in backends
    if is_fresh:
        backend = mailers[alias]
        backend.timeout = options().smtp_timeout.total_seconds()  # type: ignore[attr-defined]
        backends[alias] = backend
    return backends[alias], is_fresh


def _backends() -> dict[str, BaseEmailBackend]:
    backends: dict[str, BaseEmailBackend] = _open.__dict__.setdefault("backends", {})
    return backends


def _converse(backend: BaseEmailBackend, message: EmailMessage, deadline: float) -> Outcome:
    conversation = backend if isinstance(backend, smtp.EmailBackend) else None
    try:
        if conversation:
            conversation.begin(deadline)
        _open_connection(backend)
        backend.send_messages([message])
    except _Unusable as error:
        return TransportDown("", str(error), misconfigured=True)
    except AnymailError as error:
        return provider_api.translate(error)
    except OSError as error:
        return smtp.translate(error, payload_sent=conversation is not None and conversation.payload_sent)
    except ValueError as error:  # Django's and Anymail's word for an address or a header that cannot be sent
        return PermanentRefusal("", f"{type(error).__name__}: {error}")
    except Exception as error:
        # A receiver of Anymail's post_send, or an answer that a library could not read: the message may be out already.
        log.exception("unexpected error while a message was transmitted", transport=getattr(backend, "alias", ""))
        if conversation is not None and not conversation.payload_sent:
            return TransientRefusal("", f"unexpected {type(error).__name__} before anything was handed over")
        return OutcomeUnknown(f"unexpected {type(error).__name__}")
    return _accepted(backend, message)


class _Unusable(Exception):
    """The transport's own configuration cannot work, whatever the message."""


def _open_connection(backend: BaseEmailBackend) -> None:
    try:
        backend.open()
    except ValueError as error:  # such as a host name or a password that cannot be encoded
        raise _Unusable(f"{type(error).__name__} while connecting") from None


def _accepted(backend: BaseEmailBackend, message: EmailMessage) -> Accepted:
    if isinstance(backend, smtp.EmailBackend):
        return Accepted(*backend.reply)
    status = getattr(message, "anymail_status", None)
    return Accepted("", f"provider's message id {status.message_id}" if status and status.message_id else "")
