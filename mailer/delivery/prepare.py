"""Prepare a message: ask whether the mail is still wanted, compose it, and leave out who must not get it."""

from datetime import timedelta

import structlog
from django.core.mail import EmailMessage
from django.template import TemplateDoesNotExist, TemplateSyntaxError

from mailer import addresses, database, email
from mailer.attachments import StorageAway
from mailer.composing.message import build
from mailer.database import is_away
from mailer.delivery.steps import Ready, Trouble, Unsent
from mailer.models import Message, State
from mailer.outcomes import Unsendable
from mailer.recipients import suppression
from mailer.replicas import reading_from_writer
from mailer.text import mask
from mailer.transports import staging

log = structlog.get_logger(__name__)

BUILDING = timedelta(hours=1)
"""How long a message is built again after an error, before it fails: what it needs may be away."""


def prepare(message: Message, rows: email.Rows | None = None) -> Ready | Unsent | Trouble:
    """Ask whether the mail is still wanted, and compose it. Raises UnknownKind and the database's errors.

    `rows` has rows that were loaded a moment ago.
    """
    kind = email.find(message.kind)
    try:
        with reading_from_writer():
            mail = kind.load(message.arguments, rows)
            if not mail.is_wanted():
                return Unsent(State.CANCELLED, "no longer wanted when it was due")
            stream = mail.stream.name if mail.stream else ""
            return _exclude_recipients(message, build(mail, message.message_id_header), stream)
    except email.Unwanted as unwanted:
        return Unsent(State.CANCELLED, str(unwanted))
    except email.UnknownKind:
        raise
    except Exception as error:  # a template or an e-mail class may raise anything; other messages are not affected
        if is_away(error) and not database.answers():
            raise  # it says nothing about this message
        if not isinstance(error, StorageAway):
            log.exception("could not be built", **message.log_fields())
        reason = mask(f"could not be built: {type(error).__name__}: {error}")
        hopeless = isinstance(error, TemplateSyntaxError | TemplateDoesNotExist | Unsendable)
        if hopeless:
            return Unsent(State.FAILED, reason)
        return Trouble(reason, patience=None if isinstance(error, StorageAway) or is_away(error) else BUILDING)


def _exclude_recipients(message: Message, built: EmailMessage, stream: str) -> Ready | Unsent:
    """Exclude recipients that already have an answer or are suppressed.

    The row and the suppressions name the recipients that the mail was built for, even if a test system redirects it.
    """
    recipient, *others = recipients = [addresses.as_transmitted(entry) for entry in built.recipients()]
    try:
        staging.intercept(built)
    except staging.Blocked as reason:
        return Unsent(State.SUPPRESSED, str(reason))
    suppressed = suppression.suppressed(recipients if others else ())  # the claim itself checks a single one
    exclude = frozenset({*message.answers, *map(addresses.as_transmitted, suppressed)})
    if exclude and all(addresses.as_transmitted(entry) in exclude for entry in built.recipients()):
        return Unsent(State.SUPPRESSED, "every recipient without an answer is suppressed")
    return Ready(built, recipient, str(built.subject), stream, exclude)


def prepare_again(message: Message) -> Ready | Unsent | Trouble:
    """Do the same, but check a single recipient too, as the claim does."""
    ready = prepare(message)
    if not isinstance(ready, Ready) or len(ready.mail.recipients()) > 1:
        return ready
    reason = suppression.reason_for(ready.recipient, ready.stream)
    return ready if reason is None else Unsent(State.SUPPRESSED, f"the address is suppressed: {reason}")
