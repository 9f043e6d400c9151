"""Parse addresses, and normalise their spelling. Imports nothing of the mailer."""

from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address, AddressHeader
from email.utils import parseaddr

from django.utils.encoding import punycode


def mailbox(entry: str) -> Address | None:
    """Return the mailbox in `Ann <ann@Bücher.example>`, its domain in lower-case ASCII (RFC 5890).

    None unless the entry is exactly one mailbox without a defect, which all parsers read the same way.
    """
    try:
        parsed = AddressHeader.value_parser(entry)  # Django's SMTP backend parses the envelope with it too
        # Several mailboxes, a group or a source route show as more than one mailbox or as a defect.
        if parsed.all_defects or len(parsed.all_mailboxes) != 1 or len(parsed.addresses) != 1:
            return None
        [only] = parsed.all_mailboxes
        if only.route or not only.local_part or not only.domain:
            return None
        return Address(only.display_name or "", username=only.local_part, domain=punycode(only.domain).lower())
    except (MessageError, ValueError, IndexError, AttributeError):  # that parser fails on some broken entries
        return None


def as_compared(box: Address) -> str:
    """Return the address in lower case. (`mailbox` accepts no non-ASCII local part, for which that would be wrong.)"""
    return f"{box.username}@{box.domain}".lower()


def as_transmitted(recipient: str) -> str:
    """Return the bare address of `Ann <ann@Bücher.example>` with its domain in lower-case ASCII, as in a server's reply."""
    local, _, domain = parseaddr(recipient)[1].rpartition("@")
    with suppress(UnicodeError):  # then it cannot be transmitted either
        domain = domain.encode("idna").decode()
    return f"{local}@{domain.lower()}"
