"""One open connection per thread and transport, and every answer as an Outcome. Decides nothing."""

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
"""alias → backend. Backends have no locks of their own, hence one per thread; a forked worker has none from its parent, who
never sends."""


def transmit(message: EmailMessage, alias: str = PRIMARY, *, exclude: Collection[str] = ()) -> Outcome:
    """Sends one message through `MAILERS[alias]` and says what became of it. Raises nothing: an outcome is never lost.

    It does not go to the recipients in `exclude`, who have had their answer in an earlier attempt. Addresses come and go
    as `as_transmitted` has them.
    """
    deadline = time.monotonic() + options().conversation_limit.total_seconds()
    backend, is_fresh = _connection(alias)
    if exclude:
        _take_off_envelope(exclude, message, keep_headers=isinstance(backend, smtp.EmailBackend))
    outcome = _converse(backend, message, deadline)
    if isinstance(outcome, TransportDown) and not is_fresh:
        close(alias)  # an idle connection that the server had closed; it says nothing about the server
        backend, _ = _connection(alias)
        outcome = _converse(backend, message, deadline)
    if not isinstance(outcome, Accepted):
        close(alias)  # after an error Django's backend would keep the dead connection
    return _presentable(outcome)


def _take_off_envelope(addresses: Collection[str], message: EmailMessage, *, keep_headers: bool) -> None:
    """Takes recipients off the envelope. They stay in the headers, so that a reader sees who else got the message, unless
    the transport makes the envelope from those (a provider's API)."""
    for header, field in ("To", "to"), ("Cc", "cc"), ("Bcc", "bcc"):
        everybody = getattr(message, field)
        if keep_headers and field != "bcc" and everybody:
            message.extra_headers.setdefault(header, ", ".join(map(str, everybody)))
        setattr(message, field, [entry for entry in everybody if as_transmitted(entry) not in addresses])


def _presentable[O: Outcome](outcome: O) -> O:
    """Without addresses in the text, and as it can be stored."""
    changes: dict[str, Any] = {"text": mask(replace_unstorable(outcome.text))}
    if isinstance(outcome, Accepted | TransientRefusal | PermanentRefusal):
        changes["refused"] = {as_transmitted(a): _presentable(refusal) for a, refusal in outcome.refused.items()}
    return replace(outcome, **changes)


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
        sent = backend.send_messages([message])
        if sent == 0:  # a receiver of Anymail's pre_send, or a backend that keeps errors to itself
            return PermanentRefusal("", "the backend says that it did not send it")
    except _Unusable as error:
        return TransportDown("", str(error), misconfigured=True)
    except anymail.ERRORS as error:
        return anymail.translate(error)
    except OSError as error:
        return smtp.translate(error, payload_sent=conversation is not None and conversation.payload_sent)
    except Unsendable as error:
        return PermanentRefusal("", str(error))
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
