"""Send one message over the thread's open connection, and return every answer as an Outcome. Decides nothing."""

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import structlog
from django.core.mail import EmailMessage, mailers
from django.core.mail.backends.base import BaseEmailBackend

from mailer.addresses import as_transmitted
from mailer.conf import options
from mailer.outcomes import (
    Accepted,
    Outcome,
    OutcomeUnknown,
    PermanentRefusal,
    TransientRefusal,
    TransportDown,
    Unsendable,
)
from mailer.routes import PRIMARY
from mailer.text import mask, replace_unstorable
from mailer.transports import anymail, smtp

log = structlog.get_logger(__name__)

_open = threading.local()
"""alias → backend. Backends are not thread-safe, so each thread has its own. A fork inherits none: the parent never sends."""


def transmit(message: EmailMessage, alias: str = PRIMARY, *, exclude: Collection[str] = ()) -> Outcome:
    """Send one message through `MAILERS[alias]` and return the outcome. Raises nothing, so that no outcome is lost.

    Recipients in `exclude` do not get it. Addresses in `exclude` and in the outcome are spelt as by `as_transmitted`.
    """
    deadline = time.monotonic() + options().conversation_limit.total_seconds()
    backend, is_fresh = _connection(alias)
    if exclude:
        _exclude(exclude, message, keep_headers=isinstance(backend, smtp.EmailBackend))
    outcome = _converse(backend, message, deadline)
    if isinstance(outcome, TransportDown) and not is_fresh:
        close(alias)  # the server closes idle connections, so this error does not mean that it is down
        backend, _ = _connection(alias)
        outcome = _converse(backend, message, deadline)
    if not isinstance(outcome, Accepted):
        close(alias)  # after an error, Django's backend keeps the dead connection
    return _mask(outcome)


def _exclude(addresses: Collection[str], message: EmailMessage, *, keep_headers: bool) -> None:
    """Remove recipients from the envelope. With `keep_headers`, To and Cc still name them.

    A provider's API makes the envelope from the headers, so it cannot keep them.
    """
    for header, field in ("To", "to"), ("Cc", "cc"), ("Bcc", "bcc"):
        entries = getattr(message, field)
        if keep_headers and field != "bcc" and entries:
            message.extra_headers.setdefault(header, ", ".join(map(str, entries)))
        setattr(message, field, [entry for entry in entries if as_transmitted(entry) not in addresses])


def _mask[O: Outcome](outcome: O) -> O:
    """Mask addresses in the text, and replace characters that cannot be stored."""
    changes: dict[str, Any] = {"text": mask(replace_unstorable(outcome.text))}
    if isinstance(outcome, Accepted | TransientRefusal | PermanentRefusal):
        changes["refused"] = {as_transmitted(a): _mask(refusal) for a, refusal in outcome.refused.items()}
    return replace(outcome, **changes)


def close(alias: str) -> None:
    """Close this thread's connection to the transport if it is open."""
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
        try:
            backend.open()
        except ValueError as error:  # a host name or a password that cannot be encoded, for example
            return TransportDown("", f"{type(error).__name__} while connecting", misconfigured=True)
        if (
            backend.send_messages([message]) == 0
        ):  # a receiver of Anymail's pre_send cancelled it, or the backend hides errors
            return PermanentRefusal("", "the backend says that it did not send it")
    except anymail.ERRORS as error:
        return anymail.translate(error)
    except OSError as error:
        return smtp.translate(error, payload_sent=conversation is not None and conversation.payload_sent)
    except Unsendable as error:
        return PermanentRefusal("", str(error))
    except ValueError as error:  # Django and Anymail raise it for an address or a header that cannot be sent
        return PermanentRefusal("", f"{type(error).__name__}: {error}")
    except Exception as error:
        # A receiver of Anymail's post_send failed, or a library could not read an answer: the message may be accepted already.
        log.exception("unexpected error while a message was transmitted", transport=getattr(backend, "alias", ""))
        if conversation is not None and not conversation.payload_sent:
            return TransientRefusal("", f"unexpected {type(error).__name__} before anything was transmitted")
        return OutcomeUnknown(f"unexpected {type(error).__name__}")
    return _accepted(backend, message)


def _accepted(backend: BaseEmailBackend, message: EmailMessage) -> Accepted:
    refused: Mapping[str, TransientRefusal | PermanentRefusal]
    if isinstance(backend, smtp.EmailBackend):
        code, text = backend.reply
        refused = backend.refused
    else:
        code, text = "", anymail.message_id(message)
        refused = anymail.refused(message)
    answered = {as_transmitted(address) for address in refused}
    recipients = tuple(r for r in map(as_transmitted, message.recipients()) if r not in answered)
    return Accepted(code, text, recipients, refused)
