"""On a test system no mail goes to a customer: it is redirected, or kept from everybody who is not on a list.

Nothing here asks whether a recipient looks like a customer. It is the other way round: an entry stays if it can be read in one
way only and is on the list, in the spelling that was compared; whatever else could name a recipient goes, or the message does.
"""

from collections.abc import Iterable
from contextlib import suppress
from email.headerregistry import Address

import structlog
from django.core.mail import EmailMessage

from mailer.addresses import as_compared, mailbox
from mailer.conf import options

log = structlog.get_logger(__name__)

ADDRESSING = frozenset({"to", "cc", "bcc", "apparently-to", "errors-to"})
"""Header fields that name recipients, beside those that begin with Resent-."""
ASKING_FOR_ANSWERS = frozenset({"disposition-notification-to", "return-receipt-to", "x-confirm-reading-to"})
"""Header fields that make a reader's mail client write to somebody by itself (RFC 8098)."""
STEERING = ("x-smtpapi", "x-msys-api", "x-mc-", "x-mj-", "x-mailgun-recipient-variables")
"""Beginnings of header fields in which providers take recipients, even over SMTP."""
PER_RECIPIENT = ("merge_data", "merge_metadata", "merge_headers")
"""Anymail's attributes whose keys are addresses."""
ADDING_RECIPIENTS = frozenset({"to", "cc", "bcc", "esp_extra", "extra_headers", *PER_RECIPIENT})
"""Anymail's SEND_DEFAULTS that may add recipients to a message after it was restricted."""
ORIGINAL = "X-Redirected-From"


class HeldBack(Exception):
    """On this test system the message must not go out; the text says why, for a person to read."""


def is_test_system() -> bool:
    """Whether mail is kept from anybody here."""
    return bool(options().redirect_all_to or options().allowed_recipients)


def reaches(address: str) -> bool:
    """Whether mail to this address goes there. If not, what a server says about it is said about somebody else."""
    return not is_test_system() or is_allowed(address)


def is_allowed(recipient: str) -> bool:
    """Whether the one address in `Ann <ann@example.com>`, or its domain, is in POSTCOMMIT_ALLOWED_RECIPIENTS.

    Subdomains are domains of their own, and ann+news@ is another address than ann@: not every server takes them for one.
    """
    box = mailbox(recipient)
    return box is not None and _is_on_the_list(box)


def intercept(message: EmailMessage) -> None:
    """Changes recipients, header fields and subject as POSTCOMMIT_REDIRECT_ALL_TO, POSTCOMMIT_ALLOWED_RECIPIENTS and
    POSTCOMMIT_SUBJECT_PREFIX say; nothing if none of them is set, and nothing if it has done so before.

    Raises HeldBack.
    """
    prefix = options().subject_prefix
    if prefix and not str(message.subject).startswith(prefix):
        message.subject = f"{prefix} {message.subject}"
    if is_test_system():
        _hold_back_what_names_recipients_unseen(message)
        _restrict(message)


def let_through(messages: Iterable[EmailMessage]) -> list[EmailMessage]:
    """Those of the messages that may go out, for a transport that is used past the outbox; the others are told in the log."""
    return [message for message in messages if _may_go(message)]


def _may_go(message: EmailMessage) -> bool:
    try:
        intercept(message)
    except HeldBack as reason:
        log.warning("held back", reason=str(reason))
        return False
    return True


def _hold_back_what_names_recipients_unseen(message: EmailMessage) -> None:
    if getattr(message, "esp_extra", None):
        raise HeldBack("its esp_extra may name recipients, which a test system must not write to")
    merged = getattr(message, "merge_headers", None) or {}
    names = {
        name.lower() for headers in (message.extra_headers, *merged.values(), _ready_made(message)) for name in headers
    }
    if steering := sorted(name for name in names if name.startswith(STEERING)):
        raise HeldBack(f"its header field {steering[0]} may name recipients, which a test system must not write to")
    if any(_is_addressing(name) for headers in merged.values() for name in headers):  # on which providers act
        raise HeldBack("its merge_headers name recipients, which a test system must not write to")


def _ready_made(message: EmailMessage) -> Iterable[str]:
    """The header of a class that makes its MIME itself, whatever `extra_headers` says."""
    if type(message).message is EmailMessage.message:
        return ()
    with suppress(ValueError):  # for which it will not be sent either
        return message.message().keys()
    return ()


def _restrict(message: EmailMessage) -> None:
    """Leaves those who may get mail on the envelope, and everybody else is the redirect target, or nobody."""
    everybody = [str(entry) for entry in message.recipients()]
    target = options().redirect_all_to
    others = [entry for entry in everybody if not _stays(entry)]
    for field in ("to", "cc", "bcc"):
        setattr(message, field, [_spelt_as_compared(str(entry)) for entry in getattr(message, field) if _stays(entry)])
    message.extra_headers = {n: value for n, value in message.extra_headers.items() if not _is_addressing(n)}
    if others and target:
        message.extra_headers[ORIGINAL] = ", ".join(filter(None, map(_address_in, others)))
        if target not in map(_address_in, message.recipients()):
            message.to = [*message.to, target]
    _restrict_merging(message, others)
    left = message.recipients()
    if not left:
        raise HeldBack("none of its recipients is among POSTCOMMIT_ALLOWED_RECIPIENTS")
    if not all(map(_stays, left)):  # of a class that makes them up itself
        raise HeldBack("its recipients cannot be changed, and not all of them are among POSTCOMMIT_ALLOWED_RECIPIENTS")


def _restrict_merging(message: EmailMessage, others: list[str]) -> None:
    """Merge data are found by address; the target sees those of the first one for whom it stands in."""
    for attribute in PER_RECIPIENT:
        given = getattr(message, attribute, None)
        if not given:
            continue
        by_address = {_address_in(recipient): values for recipient, values in given.items()}
        kept = {a: by_address[a] for a in map(_address_in, message.recipients()) if a in by_address}
        stood_in_for = [by_address[a] for a in map(_address_in, others) if a in by_address]
        if stood_in_for and options().redirect_all_to:
            kept.setdefault(options().redirect_all_to, stood_in_for[0])
        setattr(message, attribute, kept)


def _is_addressing(name: str) -> bool:
    bare = name.strip().lower()  # some servers forgive a blank before the colon
    return bare in ADDRESSING | ASKING_FOR_ANSWERS or bare.startswith("resent-")


def _stays(entry: object) -> bool:
    box = mailbox(str(entry))
    return box is not None and (_is_on_the_list(box) or as_compared(box) == options().redirect_all_to)


def _is_on_the_list(box: Address) -> bool:
    if not set(box.username).isdisjoint("@%!"):  # in which old servers see an address to pass the mail on to
        return False
    return not {as_compared(box), box.domain}.isdisjoint(options().allowed_recipients)


def _spelt_as_compared(entry: str) -> str:
    """Servers and providers parse an entry once more, each in its own way; this spelling means the same to all of them."""
    box = mailbox(entry)
    return str(box) if box else entry


def _address_in(entry: object) -> str:
    box = mailbox(str(entry))
    return as_compared(box) if box else ""
