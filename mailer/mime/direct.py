"""Write a common message as octets directly: the same octets as `encoding`, in a tenth of the time.

A common message has a text, perhaps HTML beside it, and no files. `encoding` makes a tree of each header field and of the
message, and then writes the trees; the common message has one shape, and most of its fields are plain. A test compares both.
"""

import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email import quoprimime
from email.headerregistry import AddressHeader, MessageIDHeader, UnstructuredHeader
from email.policy import EmailPolicy
from email.utils import format_datetime
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils import timezone

from mailer.addresses import PLAIN_MAILBOX
from mailer.mime.encoding import class_of, finished, new_boundary, smtp_policy
from mailer.mime.folding import FOLDED_AT, LONGEST_LINE
from mailer.mime.prebuilt import is_prebuilt

NAME = re.compile("[!-9;-~]+")
"""The name of a header field (RFC 5322, 2.2)."""
ADDRESS_FIELDS = frozenset({"from", "to", "cc", "bcc", "reply-to"})

WORDS = re.compile("(?!.*=[?])[!-~]+(?: [!-~]+)*")
"""A value that stands in a header field as it is if the line is short; `=?` would begin an encoded word (RFC 2047)."""
MESSAGE_ID = re.compile(r"<[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*>")

type Part = tuple[str, str, bytes]
"""The media type, the transfer encoding and the encoded body."""


def write(mail: EmailMessage, *, eight_bit: bool) -> bytes | None:
    """Return the octets of a common message, or None for another one. Raises ValueError and Unsendable as `encoding` does."""
    if not _is_common(mail):
        return None
    policy = smtp_policy(eight_bit=eight_bit)
    parts = [_part(f"text/{mail.content_subtype}", str(mail.body), policy)]
    parts += [_part(mimetype, content, policy) for content, mimetype in getattr(mail, "alternatives", ())]
    fields = list(_fields(mail, policy))
    if None in fields:
        return None
    written = (_multipart if len(parts) > 1 else _single)(parts, b"".join(filter(None, fields)))
    return finished(written)


def _is_common(mail: EmailMessage) -> bool:
    names = [name.lower() for name in mail.extra_headers]
    bodies = [mail.body, *(content for content, _ in getattr(mail, "alternatives", ()))]
    return (
        type(mail) in (EmailMessage, EmailMultiAlternatives)
        and not (is_prebuilt(mail) or hasattr(mail, "alternative_subtype"))
        and not (mail.attachments or mail.encoding or settings.DEFAULT_CHARSET != "utf-8")
        and mail.content_subtype in ("plain", "html")
        and all(mimetype == "text/html" for _, mimetype in getattr(mail, "alternatives", ()))
        and all(isinstance(body, str) and "\0" not in body for body in bodies)
        and (len(bodies) == 1 or mail.body != "")
        and len({*names, "subject"}) == len(names) + 1  # none twice: Python refuses it, or keeps both
        and ADDRESS_FIELDS.isdisjoint(names)
        and all(NAME.fullmatch(name) and not name.startswith(("content-", "mime-")) for name in names)
        and "message-id" in names
        and all(isinstance(value, str) for value in mail.extra_headers.values())
    )


def _fields(mail: EmailMessage, policy: EmailPolicy) -> Iterator[bytes | None]:
    """Yield the header fields in Django's order, and None for one with an address that is not ASCII."""
    yield _field("Subject", str(mail.subject), policy)
    yield _field("From", str(mail.from_email), policy)
    for name, entries in (("To", mail.to), ("Cc", mail.cc), ("Reply-To", mail.reply_to)):
        if entries:
            yield _field(name, ", ".join(map(str, entries)), policy)
    if not any(name.lower() == "date" for name in mail.extra_headers):
        zone = timezone.get_current_timezone() if settings.EMAIL_USE_LOCALTIME else UTC
        yield f"Date: {format_datetime(datetime.now(zone))}\r\n".encode()
    for name, value in mail.extra_headers.items():
        yield _field(name, value, policy)


def _field(name: str, value: str, policy: EmailPolicy) -> bytes | None:
    plain = _plain(name)
    if type(value) is str and len(name) + 2 + len(value) <= FOLDED_AT and plain and plain.fullmatch(value):
        return f"{name}: {value}\r\n".encode()
    header: Any = policy.header_store_parse(name, value)[1]
    if isinstance(header, AddressHeader) and not all(address.addr_spec.isascii() for address in header.addresses):
        return None
    return policy.fold_binary(name, header)


@lru_cache(maxsize=256)
def _plain(name: str) -> re.Pattern[str] | None:
    """Return what matches the values that need no parser, by the class of the header field."""
    kinds = {UnstructuredHeader: WORDS, AddressHeader: PLAIN_MAILBOX, MessageIDHeader: MESSAGE_ID}
    return next((plain for kind, plain in kinds.items() if issubclass(class_of(name.lower()), kind)), None)


def _part(mimetype: str, content: str, policy: EmailPolicy) -> Part:
    text = content.encode()
    lines = text.splitlines()
    longest = max(map(len, lines), default=0)
    if text.isascii() and longest <= FOLDED_AT:
        return mimetype, "7bit", b"\r\n".join([*lines, b""]) or b"\r\n"
    if policy.cte_type == "8bit" and not text.isascii() and longest <= LONGEST_LINE:
        return mimetype, "8bit", b"\r\n".join([*lines, b""])
    return mimetype, *_encode(lines)


def _encode(lines: list[bytes]) -> tuple[str, bytes]:
    """Encode a text in the encoding that is shorter for its first ten lines, as Python does."""
    beginning = b"\r\n".join([*lines[:10], b""])
    if len(_quoted(beginning)) <= len(binascii.b2a_base64(beginning)):
        return "quoted-printable", _quoted(b"\n".join([*lines, b""])).replace(b"\n", b"\r\n")
    text, size = b"\r\n".join([*lines, b""]), FOLDED_AT // 4 * 3
    pieces = (binascii.b2a_base64(text[start : start + size], newline=False) for start in range(0, len(text), size))
    return "base64", b"\r\n".join([*pieces, b""])


def _quoted(text: bytes) -> bytes:
    return quoprimime.body_encode(text.decode("latin-1"), FOLDED_AT).encode()


def _content(part: Part) -> bytes:
    mimetype, encoding, _ = part
    return f'Content-Type: {mimetype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n'.encode()


def _single(parts: list[Part], fields: bytes) -> bytes:
    [part] = parts
    return b"%bMIME-Version: 1.0\r\n%b\r\n%b" % (_content(part), fields, part[2])


def _multipart(parts: list[Part], fields: bytes) -> bytes:
    boundary = new_boundary().encode()
    kind = b'MIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n boundary="%b"\r\n' % boundary
    encoding = b"Content-Transfer-Encoding: 8bit\r\n" * any(part[1] == "8bit" for part in parts)
    versions = [b"", *[b"MIME-Version: 1.0\r\n"] * (len(parts) - 1)]  # Django writes it in each part but the first
    bodies = [
        b"--%b\r\n%b%b\r\n%b\r\n" % (boundary, _content(part), version, part[2])
        for part, version in zip(parts, versions, strict=True)
    ]
    return b"%b%b%b\r\n%b--%b--\r\n" % (kind, fields, encoding, b"".join(bodies), boundary)
