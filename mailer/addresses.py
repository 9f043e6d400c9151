"""Parse addresses, and give each its one form: for the envelope, and to compare. Imports nothing of the mailer.

A domain has one form, in ASCII (IDNA 2008 with UTS 46, RFC 5891). Python's `idna` codec and Django's `punycode` follow IDNA
2003, by which straße.example is strasse.example: the domain of another owner.
"""

import re
import unicodedata
from collections.abc import Callable
from email.errors import MessageError
from email.headerregistry import Address, AddressHeader
from email.utils import parseaddr
from functools import lru_cache

import idna

LONGEST = 254
"""Characters of an address (RFC 5321, 4.5.3.1.3, without its angle brackets)."""
LONGEST_DOMAIN = 255
"""Characters (RFC 5321, 4.5.3.1.2). Normalizing thousands of combining marks would take seconds."""
LONGEST_ENTRY, DEEPEST_COMMENT = 998, 20
"""Characters and brackets; with many more, Python's parser takes seconds or overflows the stack."""
PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9._-]+")
"""A bare ASCII address without quotes, which needs no parser."""
PLAIN_MAILBOX = re.compile(
    r"([A-Za-z0-9_-]+(?: [A-Za-z0-9_-]+)* <)?"
    r"(?P<address>[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)(?(1)>)"
)
"""`ann@example.com` or `Ann Example <ann@example.com>`, which needs no parser: each would read it in one way."""
DOTS = ".\u3002\uff0e\uff61"
"""The dot, and the characters that stand for it in a domain (UTS 46, 2.3)."""
PARSING_FAILED = (MessageError, ValueError, IndexError, AttributeError, UnboundLocalError)
"""Python's parser raises them for some broken entries."""


class InvalidAddress(ValueError):
    """The address cannot be transmitted. The text does not quote it."""


def mailbox(entry: str) -> Address | None:
    """Return the mailbox in `Ann <ann@Bücher.example>`, its domain in lower-case ASCII.

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
        return Address(only.display_name or "", username=only.local_part, domain=domain_in_ascii(only.domain))
    except PARSING_FAILED:
        return None


def as_compared(box: Address) -> str:
    """Return the address in the form of `canonical`."""
    return _lower(box.addr_spec)


def canonical(entry: str) -> str:
    """Return the form in which addresses are stored to be found again, and compared: as transmitted, in lower case.

    All spellings of an address have the same form. Nearly every server ignores the case of the local part.
    """
    return _lower(as_transmitted(entry))


def as_transmitted(entry: str) -> str:
    """Return the bare address of `Ann <Ann@Bücher.example>` as the envelope and a server's reply have it.

    The domain is in lower-case ASCII. The local part is as it was typed (RFC 5321, 2.4), without needless quotes (4.1.2). An
    address that cannot be transmitted stays as it is, so that it can still be looked up; `for_envelope` raises.
    """
    return _settled(_as_transmitted, entry)


def for_envelope(entry: str) -> str:
    """Return the same as `as_transmitted`. Raises InvalidAddress for an address that cannot be transmitted."""
    return _settled(_for_envelope, entry)


def _settled(read: Callable[[str], str], entry: str) -> str:
    """Read until nothing changes: of what is no address, one reading may leave something that reads otherwise."""
    while (form := read(entry)) != entry:
        entry = form
    return entry


def _as_transmitted(entry: str) -> str:
    try:
        return _for_envelope(entry)
    except InvalidAddress:
        return parseaddr(entry)[1] or entry


def _for_envelope(entry: str) -> str:
    if plain := PLAIN_MAILBOX.fullmatch(entry):
        entry = plain["address"]
    local, domain = entry.rsplit("@", 1) if plain or PLAIN.fullmatch(entry) else _split(entry)
    address = f"{local}@{domain_in_ascii(domain)}" if domain else local
    if len(address) > LONGEST:
        raise InvalidAddress(f"it has more than {LONGEST} characters (RFC 5321, 4.5.3.1.3)")
    return address


def domain_in_ascii(domain: str) -> str:
    """Return the domain in lower-case ASCII, without the dot of the root. Raises InvalidAddress.

    A domain that is in ASCII already is not checked: it names no other domain than the one that was written.
    """
    encoded = domain.lower() if domain.isascii() else _encode(domain)
    return encoded.removesuffix(".")


@lru_cache(maxsize=1024)
def _encode(domain: str) -> str:
    if len(domain) > LONGEST_DOMAIN:
        raise InvalidAddress(f"its domain has more than {LONGEST_DOMAIN} characters")
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        raise InvalidAddress("its domain is not a valid international domain (RFC 5891)") from None


def _split(entry: str) -> tuple[str, str]:
    """Return the local part, quoted only if it must be, and the domain, which may be empty (`root`)."""
    entry = entry.rstrip(DOTS)
    if len(entry) <= LONGEST_ENTRY and entry.count("(") <= DEEPEST_COMMENT:
        try:
            [box] = AddressHeader.value_parser(entry).all_mailboxes
            if box.local_part:
                return Address(username=box.local_part, domain="x").addr_spec.removesuffix("@x"), box.domain or ""
        except PARSING_FAILED:
            pass
    local, at, domain = (parseaddr(entry)[1] or entry).rpartition("@")
    return (local, domain) if at else (domain, "")


def _lower(address: str) -> str:
    """Lower the case. Two encodings of one non-ASCII local part become equal too (RFC 6532, 3.1)."""
    if address.isascii():
        return address.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", address).lower())
