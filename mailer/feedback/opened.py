"""Open a mail that anybody may have written: what is read of it is bounded, in time and in memory."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import MessageError
from email.message import Message
from email.parser import BytesParser, HeaderParser
from email.policy import Compat32

LONGEST = 500_000
"""Octets of a mail that are read. What a bounce says stands before the mail that it returns."""
LONGEST_FIELD = 2000
"""Characters of a header field. Python's parser of parameters takes quadratic time."""
LONGEST_TEXT = 65_536
MOST_LINES = 20_000
MOST_PARTS = 50
"""Lines that begin as a boundary does. A part costs a kilobyte, and each level of parts some time for each line."""
MOST_BLOCKS = 501
"""Of a delivery report: about the mail, and about 500 recipients."""
MOST_FIELDS = 20
"""Fields of one name."""

DELIMITER = b"\n--"
EMBEDDED = re.compile(rb"^(content-type:\s*)message/", re.IGNORECASE | re.MULTILINE)
"""Read as plain text, so that a mail in a mail is not opened: it may say anything, and may hold the next one."""
BLANK_LINE = re.compile(r"\n[ \t]*\n")
ADDRESS = re.compile(r"[^\s<>()\[\],;:\"']{1,320}@[^\s<>()\[\],;:\"']{1,320}")
CHARSET = re.compile(r"utf-8|us-ascii|iso-8859-\d+|windows-125\d|koi8-[ru]|gb2312|gbk|gb18030|big5|shift_jis|euc-\w+")
PARSING_FAILED = (MessageError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Python's parser raises them for some broken mails."""


class Bounded(Compat32):
    """Cut header fields that are too long."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:LONGEST_FIELD]


BOUNDED = Bounded()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a mail without parts of its own."""

    kind: str
    """Its type, in lower case, such as `message/delivery-status`."""
    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A mail: its header, and its parts in their order."""

    header: Message
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The first text for people; empty if there is none."""
        return next((part.text for part in self.parts if part.kind == "text/plain"), "")

    def of_kind(self, *kinds: str) -> list[Part]:
        """Return the parts of these types."""
        return [part for part in self.parts if part.kind in kinds]

    def values(self, *names: str) -> list[str]:
        """Return the values of the fields with these names in the header."""
        return [value for name in names for value in values(self.header, name)]


def open_mail(raw: bytes) -> Opened | None:
    """Return the mail; None if it cannot be parsed."""
    start = raw[:LONGEST].replace(b"\r\n", b"\n").lstrip(b"\n")
    for separator, most in (b"\n", MOST_LINES), (DELIMITER, MOST_PARTS):
        start = separator.join(start.split(separator, most)[:most])
    try:
        header = BytesParser(policy=BOUNDED).parsebytes(EMBEDDED.sub(rb"\1x-message/", start))
        return Opened(header, tuple(map(_part, _leaves(header))))
    except PARSING_FAILED:
        return None


def blocks(text: str) -> list[Message]:
    """Return the blocks of header fields in a text, which blank lines part."""
    return list(map(_fields, BLANK_LINE.split(text.strip("\n"), MOST_BLOCKS)[:MOST_BLOCKS]))


def head(text: str) -> Message:
    """Return the first of the blocks, or the header of a mail."""
    return _fields(BLANK_LINE.split(text.lstrip("\n"), 1)[0])


def _fields(block: str) -> Message:
    return HeaderParser(policy=BOUNDED).parsestr(block.lstrip("\n"))


def values(header: Message, name: str) -> list[str]:
    """Return the values of the fields with this name, each on one line."""
    return [" ".join(str(value).split()) for value in header.get_all(name, [])[:MOST_FIELDS]]


def value(header: Message, *names: str) -> str:
    """Return the first of these fields, on one line; empty if there is none."""
    return next((found for name in names for found in values(header, name)), "")


def _leaves(message: Message) -> Iterator[Message]:
    return (part for part in message.walk() if not part.is_multipart())


def _part(message: Message) -> Part:
    kind = message.get_content_type().replace("x-message/", "message/", 1)
    content = message.get_payload(decode=True)
    octets = content.replace(b"\r\n", b"\n") if isinstance(content, bytes) else b""
    if kind.startswith("message/"):
        return Part(kind, octets.decode("utf-8", "replace"))
    charset = str(message.get_content_charset("utf-8"))
    known = charset if CHARSET.fullmatch(charset) else "utf-8"
    return Part(kind, octets[:LONGEST_TEXT].decode(known, "replace"))
