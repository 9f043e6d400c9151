"""Read any message, however malformed, and never raise.

The standard library's parser raises on some input (a charset with a NUL, a malformed parameter, a thousand nested
multiparts), and new cases appear in its bug tracker. So each step has a simpler fallback, down to the raw bytes, and
`except Exception` is intended: the inbox must show the mail that broke the parser.
"""

import mimetypes
import re
from codecs import lookup
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import EmailPolicy
from functools import lru_cache
from html import unescape
from itertools import islice
from time import thread_time
from urllib.parse import unquote

type AnyMessage = Message[str, str]

MAX_HEADERS = 500
MAX_PARTS = 500
MAX_LINES = 400_000
MAX_BOUNDARIES = 10_000
MAX_COMPARISONS = 5_000_000
# Parsing a header can take quadratic time. Real headers are shorter than this.
MAX_PARSED_HEADER = 4_000
MAX_FILENAME = 120
MAX_HEAD = 100_000
"""Bytes of the headers of a message that is not split into parts."""
MAX_CIDS = 1_000

SECONDS = 0.4
"""The time of the processor for one message. It bounds the sum of all headers and parts, the limits above bound each."""

CID = re.compile(r"""(["'(=]\s*)cid:([^"'()\s<>]+)""", re.IGNORECASE)
SLOW_CODECS = ("punycode", "idna")  # quadratic, and no charset of a mail

CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]*/[a-z0-9][a-z0-9.+_-]*")
BLANK_LINE = re.compile(rb"\r?\n\r?\n")
NO_TYPE = "application/octet-stream"


class TooMuchWork(Exception):
    """The time for one message is spent."""


class Lenient(EmailPolicy):
    """The standard library's modern policy, for headers that may be malformed, with a clock for one message."""

    until: float | None = None

    @property
    def is_late(self) -> bool:
        """Whether the time of this message is spent."""
        return self.until is not None and thread_time() > self.until

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """Raises TooMuchWork, which ends the parser, when the time is spent."""
        if self.is_late:
            raise TooMuchWork
        return super().header_source_parse(sourcelines)

    def header_fetch_parse(self, name: str, value: str) -> str:
        """Decode a header to one line. Leave it encoded if it is too long, cannot be parsed, or the time is spent."""
        if name.lower().startswith("content-"):  # the parser splits these again
            value = value[: 200 if self.is_late else MAX_PARSED_HEADER]
        with suppress(Exception):
            if len(value) <= MAX_PARSED_HEADER and not self.is_late:
                value = str(super().header_fetch_parse(name, value))
        return " ".join(readable(value).splitlines()).strip()


def _lenient() -> Lenient:
    """Return a policy whose clock starts now."""
    return Lenient(until=thread_time() + SECONDS)  # type: ignore[call-overload, no-any-return]


@dataclass(slots=True)
class Part:
    """A leaf of the message, decoded. Numbers start at 1, in the order of the source."""

    number: int
    content_type: str
    filename: str
    content_id: str
    content: bytes
    embedded: bool = False  # the HTML shows it, so it is not listed as an attachment

    @property
    def is_image(self) -> bool:
        """Whether a browser may know the type: images run nothing."""
        return self.content_type.startswith("image/")


@dataclass(slots=True)
class Reading:
    """The content of a message. Every text can be encoded and escaped, and none can be trusted."""

    headers: list[tuple[str, str]]
    text: str | None = None
    html: str | None = None
    parts: list[Part] = field(default_factory=list)
    cut: bool = False
    """Whether reading all of it would have taken too long. The source has the rest."""

    def header(self, name: str) -> str:
        """Return the first header of this name, or an empty text."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


@lru_cache(maxsize=4)  # a page, its frame and each picture in it ask for the same message
def read(source: bytes) -> Reading:
    """Read the headers, the texts and the other parts of a message, as far as possible within about a second."""
    with suppress(Exception):
        if not _is_tangled(source):
            policy = _lenient()
            return _reading(message_from_bytes(source, policy=policy), policy)
    return _in_one_piece(source)


def _is_tangled(source: bytes) -> bool:
    """Whether parsing would take long: the parser compares each line with the boundary of each open container."""
    lines = source.count(b"\n")
    comparisons = lines * source.lower().count(b"multipart/")
    return lines > MAX_LINES or comparisons > MAX_COMPARISONS or source.count(b"\n--") > MAX_BOUNDARIES


def _in_one_piece(source: bytes) -> Reading:
    """Read the first headers alone, and show the body as it was received."""
    end = BLANK_LINE.search(source)
    head, body = (source[: end.start()], source[end.end() :]) if end else (source, b"")
    policy = _lenient()
    pairs = BytesHeaderParser().parsebytes(head[:MAX_HEAD]).raw_items()
    return Reading(_headers(pairs, policy), text=body.decode("utf-8", "replace"), cut=True)


def _headers(pairs: Iterable[tuple[str, object]], policy: Lenient) -> list[tuple[str, str]]:
    read = islice(pairs, MAX_HEADERS)
    return [(readable(name), policy.header_fetch_parse(name, str(value))) for name, value in read]


def _reading(message: AnyMessage, policy: Lenient) -> Reading:
    reading = Reading(_headers(message.raw_items(), policy))
    for leaf in islice(_leaves(message), MAX_PARTS):
        part = _part(leaf, len(reading.parts) + 1)
        is_body = not part.filename and leaf.get_content_disposition() != "attachment"
        # A multipart that could not be split (no boundary, or nested too deep) is shown as text.
        if is_body and reading.text is None and part.content_type.startswith(("text/plain", "multipart/")):
            reading.text = _text(leaf, part.content)
        elif is_body and reading.html is None and part.content_type == "text/html":
            reading.html = _text(leaf, part.content)
        else:
            extension = mimetypes.guess_extension(part.content_type) or ".bin"
            part.filename = part.filename or f"part-{part.number}{extension}"
            reading.parts.append(part)
    cids = islice(CID.finditer(reading.html or ""), MAX_CIDS)
    shown = {name for match in cids for name in content_ids(match[2])}
    for part in reading.parts:
        part.embedded = part.content_id in shown
    reading.cut = policy.is_late
    return reading


def content_ids(in_html: str) -> tuple[str, ...]:
    """Return the Content-IDs that a `cid:` URL in HTML may name: as it is written, and without escapes (RFC 2392, 2)."""
    return in_html, unescape(in_html), unquote(unescape(in_html))


def _leaves(part: AnyMessage) -> Iterator[AnyMessage]:
    """Yield all parts that are not containers. An attached message is one part: it is offered as a file."""
    payload = part.get_payload()
    if isinstance(payload, list) and part.get_content_maintype() != "message":
        for child in payload:
            yield from _leaves(child)  # type: ignore[arg-type]
    else:
        yield part


def _part(leaf: AnyMessage, number: int) -> Part:
    content_type = leaf.get_content_type()
    if not CONTENT_TYPE.fullmatch(content_type):
        content_type = NO_TYPE
    return Part(number, content_type, _filename(leaf), str(leaf.get("Content-ID", "")).strip("<> "), _content(leaf))


def _filename(part: AnyMessage) -> str:
    """Return a safe name: no folders, nothing unprintable (a line break, a right-to-left override)."""
    try:
        claimed = readable(part.get_filename() or "")
    except Exception:
        claimed = "unreadable-name"
    name = re.split(r"[/\\]", claimed)[-1]
    return "".join(character for character in name if character.isprintable()).strip(". ")[-MAX_FILENAME:]


def _content(part: AnyMessage) -> bytes:
    payload = part.get_payload()
    try:
        if isinstance(payload, list):  # an attached message, or a delivery report made of header blocks
            return b"\r\n".join(child.as_bytes() for child in payload)  # type: ignore[union-attr]
        decoded = part.get_payload(decode=True)
        return decoded if isinstance(decoded, bytes) else _bytes(str(payload))
    except Exception:
        return b"" if isinstance(payload, list) else _bytes(str(payload))


def _text(part: AnyMessage, content: bytes) -> str:
    """Decode the text with its own charset or else with UTF-8, and mark each byte that fits neither."""
    try:
        charset = part.get_content_charset() or "utf-8"
        # Python finds a codec by many spellings of its name.
        return readable(content.decode("utf-8" if lookup(charset).name in SLOW_CODECS else charset))
    except Exception:
        return content.decode("utf-8", "replace")


def readable(text: str) -> str:
    """Return the text without lone surrogates, which no encoder accepts. Raw 8-bit bytes are read as UTF-8."""
    return _bytes(text).decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
