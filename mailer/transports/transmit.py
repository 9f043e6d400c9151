"""Transmit one message over an open connection, and return every answer as an Outcome. Decides nothing."""

import re
import smtplib
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import structlog
from django.core.mail import EmailMessage

from mailer.addresses import as_transmitted
from mailer.outcomes import (
    Accepted,
    Interrupted,
    Outcome,
    OutcomeUnknown,
    PermanentRefusal,
    Phase,
    Stop,
    TransientRefusal,
    TransportDown,
    Unsendable,
    status_of,
)
from mailer.text import in_words, mask, replace_unstorable
from mailer.transports import anymail, smtp, staging, verp
from mailer.transports.connections import Connection, is_limit
from mailer.transports.conversation import Transaction

log = structlog.get_logger(__name__)

NOT_SENT = PermanentRefusal("", "the backend says that it did not send it")
"""A receiver of Anymail's pre_send cancelled it, the backend hides errors, or no recipient is left."""
SESSION_IS_OVER = re.compile(r"session|connection", re.IGNORECASE)
"""In a 4xx answer to MAIL: `452 too many messages in this session`."""


def proceed() -> None:
    """The guard of a transmission that nothing stops."""


def transmit(
    connection: Connection,
    message: EmailMessage,
    *,
    number: int = 0,
    exclude: Collection[str] = (),
    guard: Callable[[], None] = proceed,
) -> Outcome:
    """Transmit one message, give the connection back, and return the outcome. Raises nothing, so that no outcome is lost.

    What is reported later names it by its `number`, its primary key. Recipients in `exclude` do not get it. Addresses in
    `exclude` and in the outcome are spelt as by `as_transmitted`. `guard` is called before MAIL and before the final dot, or
    before the request to a provider. If it raises Stop, nothing is sent.
    """
    assert connection.pool.has_lent(connection), "this connection was given back: another thread may use it"
    with connection:
        if exclude:
            _exclude(exclude, message, keep_headers=isinstance(connection.backend, smtp.EmailBackend))
        was_kept = connection.is_kept
        outcome = _converse(connection, message, number, guard)
        if was_kept and (_session_is_over(outcome) or _may_be_outdated(outcome)):
            outcome = _renew(connection) or _converse(connection, message, number, guard)
        if isinstance(outcome, Accepted):
            connection.pool.accepted_at = time.monotonic()
    return _mask(outcome)


def _session_is_over(outcome: Outcome) -> bool:
    """Return whether the server ended only the session: before MAIL it had closed the connection, or it takes no more here."""
    match outcome:
        case TransportDown(phase=Phase.MAIL):
            return True
        case TransientRefusal(code=code, text=text, phase=Phase.MAIL):
            return code == "421" or SESSION_IS_OVER.search(text) is not None
        case PermanentRefusal(code=code, phase=Phase.MAIL):
            return code == "503"  # "nested MAIL": what it thinks of the session is not what we think
    return False


def _may_be_outdated(outcome: Outcome) -> bool:
    """Return whether a refusal may be the policy of the time when the session began: Postfix keeps its settings until then.

    What is said about the recipient's own address is not.
    """
    is_early = isinstance(outcome, PermanentRefusal) and outcome.phase in (Phase.MAIL, Phase.RCPT)
    return is_early and not status_of(outcome.text).startswith(("5.1.1", "5.1.10", "5.2."))


def _renew(connection: Connection) -> TransportDown | Interrupted | None:
    down = connection.renew()
    return Interrupted(f"no new connection: {down.text}") if down and is_limit(down) else down


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
    if outcome.refused:
        changes["refused"] = {as_transmitted(a): _mask(refusal) for a, refusal in outcome.refused.items()}
    return replace(outcome, **changes)


def _converse(connection: Connection, message: EmailMessage, number: int, guard: Callable[[], None]) -> Outcome:
    backend = connection.backend
    transaction = None
    try:
        if isinstance(backend, smtp.EmailBackend):
            if not staging.let_through([message]) or not message.recipients():
                return NOT_SENT
            assert backend.connection is not None
            bounces_to = verp.envelope_sender(number) if number else ""
            transaction = Transaction(backend.connection, backend.prepare(message, bounces_to), guard)
            return transaction.run()
        return _send(connection, message, number, guard)
    except Stop as reason:
        return Interrupted(str(reason))
    except anymail.ERRORS as error:
        return anymail.translate(error)
    except OSError as error:  # of Django's own SMTP backend, or another one
        return _translate(error)
    except Unsendable as error:
        return PermanentRefusal("", str(error))
    except ValueError as error:  # Django and Anymail raise it for an address or a header that cannot be sent
        return PermanentRefusal("", str(error))
    except Exception as error:
        # A receiver of Anymail's post_send failed, or a library could not read an answer: the message may be accepted already.
        log.exception("unexpected error while a message was transmitted", transport=connection.alias)
        if isinstance(backend, smtp.EmailBackend) and not (transaction and transaction.dot_sent):
            return TransientRefusal("", f"unexpected {type(error).__name__} before anything was transmitted")
        return OutcomeUnknown(f"unexpected {type(error).__name__}")


def _send(connection: Connection, message: EmailMessage, number: int, guard: Callable[[], None]) -> Outcome:
    """Send a message through a backend of which only one call is known, such as a provider's. Raises what it raises."""
    if number:
        anymail.mark(message, connection.backend, verp.token(number))
    guard()
    connection.is_open = False  # until it is known to be in order
    answer = _accepted(message) if connection.backend.send_messages([message]) else NOT_SENT
    connection.is_open = True
    return answer


def _translate(error: OSError) -> Outcome:
    """Translate an error of a backend that does not say how far it came."""
    match error:
        case smtplib.SMTPRecipientsRefused(recipients=replies):
            code, raw = min(replies.values(), key=lambda reply: reply[0])
            phase = Phase.RCPT
        case smtplib.SMTPSenderRefused(smtp_code=code, smtp_error=raw):
            phase = Phase.MAIL
        case smtplib.SMTPDataError(smtp_code=code, smtp_error=raw):
            phase = Phase.DOT
        case _:
            return OutcomeUnknown(in_words(error))
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    kind = TransientRefusal if code < 500 else PermanentRefusal
    return kind(str(code), text, phase)


def _accepted(message: EmailMessage) -> Accepted:
    refused = anymail.refused(message)
    answered = {as_transmitted(address) for address in refused}
    recipients = tuple(r for r in map(as_transmitted, message.recipients()) if r not in answered)
    return Accepted("", anymail.message_id(message), recipients, refused)
