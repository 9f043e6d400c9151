"""Keep the mail of a test system from customers: redirect it, or send it only to the addresses on a list.

Only listed recipients are allowed. A recipient stays if its address is unambiguous and on the list, and mail goes to the
spelling that was compared. Everything else that could name a recipient is removed, or the message is blocked.
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
"""Header fields that make the recipient's mail client send an answer by itself (RFC 8098)."""
STEERING = ("x-smtpapi", "x-msys-api", "x-mc-", "x-mj-", "x-mailgun-recipient-variables")
"""Prefixes of header fields in which providers accept recipients, even over SMTP."""
PER_RECIPIENT = ("merge_data", "merge_metadata", "merge_headers")
"""Anymail's attributes whose keys are addresses."""
ADDING_RECIPIENTS = frozenset({"to", "cc", "bcc", "esp_extra", "extra_headers", *PER_RECIPIENT})
"""Anymail's SEND_DEFAULTS that may add recipients to a message after it was restricted."""
ORIGINAL = "X-Redirected-From"


class Blocked(Exception):
    """This test system must not send the message. The text is the reason, for the operator."""


def is_test_system() -> bool:
    """Return whether a setting restricts recipients."""
    return bool(options().redirect_all_to or options().allowed_recipients)


def reaches(address: str) -> bool:
    """Return whether mail to this address is sent to it. If not, a server's answer is about another address.

    A listed domain does not include its subdomains, and ann@ does not include ann+news@: not every server treats them as
    the same.
    """
    box = mailbox(address)
    return not is_test_system() or (box is not None and _is_on_the_list(box))


def intercept(message: EmailMessage) -> None:
    """Apply POSTCOMMIT_REDIRECT_ALL_TO, POSTCOMMIT_ALLOWED_RECIPIENTS and POSTCOMMIT_SUBJECT_PREFIX to a message.

    A second call changes nothing. Raises Blocked.
    """
    prefix = options().subject_prefix
    if prefix and not str(message.subject).startswith(prefix):
        message.subject = f"{prefix} {message.subject}"
    if is_test_system():
        _refuse_hidden_recipients(message)
        _restrict(message)


def let_through(messages: Iterable[EmailMessage]) -> list[EmailMessage]:
    """Return the messages that may be sent, for a transport that is used without the outbox. Log the others."""
    allowed = []
    for message in messages:
        try:
            intercept(message)
            allowed.append(message)
        except Blocked as reason:
            log.warning("mail not sent from a test system", reason=str(reason))
    return allowed


def _refuse_hidden_recipients(message: EmailMessage) -> None:
    if getattr(message, "esp_extra", None):
        raise Blocked("its esp_extra may name recipients, which a test system must not write to")
    merged = getattr(message, "merge_headers", None) or {}
    names = {
        name.lower() for headers in (message.extra_headers, *merged.values(), _own_headers(message)) for name in headers
    }
    if steering := sorted(name for name in names if name.startswith(STEERING)):
        raise Blocked(f"its header field {steering[0]} may name recipients, which a test system must not write to")
    if any(_is_addressing(name) for headers in merged.values() for name in headers):  # providers act on them
        raise Blocked("its merge_headers name recipients, which a test system must not write to")


def _own_headers(message: EmailMessage) -> Iterable[str]:
    """Return the header names of a class that makes its own MIME and may ignore `extra_headers`."""
    if type(message).message is EmailMessage.message:
        return ()
    with suppress(ValueError):  # such a message cannot be sent anyway
        return message.message().keys()
    return ()


def _restrict(message: EmailMessage) -> None:
    """Keep the allowed recipients. Replace all others by the redirect target, if it is set."""
    target = options().redirect_all_to
    others = [str(entry) for entry in message.recipients() if not _stays(entry)]
    for field in ("to", "cc", "bcc"):  # in a spelling that all servers and providers parse alike
        setattr(message, field, [str(mailbox(str(entry))) for entry in getattr(message, field) if _stays(entry)])
    message.extra_headers = {n: value for n, value in message.extra_headers.items() if not _is_addressing(n)}
    if others and target:
        message.extra_headers[ORIGINAL] = ", ".join(filter(None, map(_address_in, others)))
        if target not in map(_address_in, message.recipients()):
            message.to = [*message.to, target]
    _restrict_merging(message, others)
    left = message.recipients()
    if not left:
        raise Blocked("none of its recipients is among POSTCOMMIT_ALLOWED_RECIPIENTS")
    if not all(map(_stays, left)):  # a class may compute them itself
        raise Blocked("its recipients cannot be changed, and not all of them are among POSTCOMMIT_ALLOWED_RECIPIENTS")


def _restrict_merging(message: EmailMessage, others: list[str]) -> None:
    """Restrict merge data, which are found by address. The redirect target gets those of the first recipient it replaces."""
    for attribute in PER_RECIPIENT:
        given = getattr(message, attribute, None)
        if not given:
            continue
        by_address = {_address_in(recipient): values for recipient, values in given.items()}
        kept = {a: by_address[a] for a in map(_address_in, message.recipients()) if a in by_address}
        replaced = [by_address[a] for a in map(_address_in, others) if a in by_address]
        if replaced and options().redirect_all_to:
            kept.setdefault(options().redirect_all_to, replaced[0])
        setattr(message, attribute, kept)


def _is_addressing(name: str) -> bool:
    bare = name.strip().lower()  # some servers accept a blank before the colon
    return bare in ADDRESSING | ASKING_FOR_ANSWERS or bare.startswith("resent-")


def _stays(entry: object) -> bool:
    box = mailbox(str(entry))
    return box is not None and (_is_on_the_list(box) or as_compared(box) == options().redirect_all_to)


def _is_on_the_list(box: Address) -> bool:
    if not set(box.username).isdisjoint("@%!"):  # old servers read a forwarding address in these
        return False
    return not {as_compared(box), box.domain}.isdisjoint(options().allowed_recipients)


def _address_in(entry: object) -> str:
    box = mailbox(str(entry))
    return as_compared(box) if box else ""
