"""An address in one spelling, however it was written. Imports nothing of the mailer."""

from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address, AddressHeader
from email.utils import parseaddr

from django.utils.encoding import punycode


def mailbox(entry: str) -> Address | None:
    """The one mailbox in `Ann <ann@Bücher.example>`, its domain in lower-case ASCII (RFC 5890); None for anything that is
    not exactly one without a fault, so that nobody can read another one in it."""
    try:
        parsed = AddressHeader.value_parser(entry)  # what Django's SMTP backend reads the envelope with
        # Several in one entry, groups and source routes among them, come as more than one or with a defect.
        if parsed.all_defects or len(parsed.all_mailboxes) != 1 or len(parsed.addresses) != 1:
            return None
        [only] = parsed.all_mailboxes
        if only.route or not only.local_part or not only.domain:
            return None
        return Address(only.display_name or "", username=only.local_part, domain=punycode(only.domain).lower())
    except (MessageError, ValueError, IndexError, AttributeError):  # that parser trips over some broken ones
        return None


def as_compared(box: Address) -> str:
    """The address in lower case. (Outside ASCII that would not be the same mailbox; `mailbox` takes no such local part.)"""
    return f"{box.username}@{box.domain}".lower()


def as_transmitted(recipient: str) -> str:
    """The bare address of `Ann <ann@Bücher.example>` in one spelling, whoever wrote it: servers answer in their own."""
    local, _, domain = parseaddr(recipient)[1].rpartition("@")
    with suppress(UnicodeError):  # then it will not have been transmitted either
        domain = domain.encode("idna").decode()
    return f"{local}@{domain.lower()}"


def as_written(recipient: str) -> str:
    """The address of `Ann <ann@Bücher.example>` as it was written."""
    return parseaddr(recipient)[1]
