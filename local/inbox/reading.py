"""Read any message, however malformed, and never raise.

The standard library's parser raises on some input (a charset with a NUL, a malformed parameter, a thousand nested
multiparts), and new cases appear in its bug tracker. So each step has a simpler fallback, down to the raw bytes, and
`except Exception` is intended: the inbox must show the mail that broke the parser.
"""

import mimetypes
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import EmailPolicy
from functools import lru_cache

type AnyMessage = Message[str, str]

MAX_HEADERS = 500
MAX_PARTS = 500
MAX_BOUNDARIES = 10_000
MAX_COMPARISONS = 20_000_000
# Parsing a header can take quadratic time. Real headers are shorter than this.
MAX_PARSED_HEADER = 4_000
MAX_FILENAME = 120

CONTENT_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]*/[a-z0-9][a-z0-9.+_-]*")
NO_TYPE = "application/octet-stream"


class Lenient(EmailPolicy):
    """The standard library's modern policy, for headers that may be malformed."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        """Decode a header. Return it unchanged if it cannot be parsed, and cut if that would take too long."""
        try:
            return str(super().header_fetch_parse(name, value[:MAX_PARSED_HEADER]))
        except Exception:
            return value[:MAX_PARSED_HEADER]


LENIENT = Lenient()


@dataclass(frozen=True, slots=True)
class Part:
    """A leaf of the message, decoded. Numbers start at 1, in the order of the source."""

    number: int
    content_type: str
    filename: str
    content_id: str
    content: bytes
    embedded: bool = False  # the HTML shows it, so it is not listed as an attachment

    @property
    def size(self) -> int:
        """In bytes, decoded."""
        return len(self.content)

    @property
    def is_image(self) -> bool:
        """Whether a browser may know the type: images run nothing."""
        return self.content_type.startswith("image/")


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of a message. Every text can be encoded and escaped, and none can be trusted."""

    headers: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    parts: tuple[Part, ...]

    def header(self, name: str) -> str:
        """Return the first header of this name, or an empty text."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def attachments(self) -> tuple[Part, ...]:
        """The parts that the HTML does not show."""
        return tuple(part for part in self.parts if not part.embedded)


@lru_cache(maxsize=4)  # a page, its frame and each picture in it ask for the same message
def read(source: bytes) -> Reading:
    """Read the headers, the texts and the other parts of a message, as far as possible."""
    message = _parsed(source)
    text: str | None = None
    html: str | None = None
    parts: list[Part] = []
    for leaf in _leaves(message):
        content_type = _content_type(leaf)
        is_body = not _is_attached(leaf)
        if is_body and text is None and _is_plain(content_type):
            text = _text(leaf)
        elif is_body and html is None and content_type == "text/html":
            html = _text(leaf)
        else:
            parts.append(_part(leaf, len(parts) + 1, content_type))
    return Reading(_headers(message), text, html, tuple(_with_embedding(parts, html or "")))


def _parsed(source: bytes) -> AnyMessage:
    with suppress(Exception):
        if not _is_tangled(source):
            return message_from_bytes(source, policy=LENIENT)
    return BytesHeaderParser(policy=LENIENT).parsebytes(source)  # the body stays in one piece


def _is_tangled(source: bytes) -> bool:
    """Whether parsing would take minutes: the parser compares each line with the boundary of each open container."""
    comparisons = source.count(b"\n") * source.lower().count(b"multipart/")
    return comparisons > MAX_COMPARISONS or source.count(b"\n--") > MAX_BOUNDARIES


def _leaves(message: AnyMessage) -> Iterator[AnyMessage]:
    """Yield all parts that are not containers. An attached message is one part: it is offered as a file."""
    waiting = [message]
    left = MAX_PARTS
    while waiting and left:
        part = waiting.pop()
        payload = part.get_payload()
        if isinstance(payload, list) and not _content_type(part).startswith("message/"):
            waiting.extend(child for child in reversed(payload) if isinstance(child, Message))
        else:
            left -= 1
            yield part


def _headers(message: AnyMessage) -> tuple[tuple[str, str], ...]:
    pairs = list(message.raw_items())[:MAX_HEADERS]
    return tuple((readable(name), _header_value(name, str(value))) for name, value in pairs)


def _header_value(name: str, raw: str) -> str:
    """Decode encoded words, and join lines."""
    value = raw if len(raw) > MAX_PARSED_HEADER else LENIENT.header_fetch_parse(name, raw)
    return " ".join(readable(value).splitlines()).strip()


def _content_type(part: AnyMessage) -> str:
    try:
        claimed = str(part.get_content_type()).lower()
    except Exception:
        return NO_TYPE
    return claimed if CONTENT_TYPE.fullmatch(claimed) else NO_TYPE


def _is_plain(content_type: str) -> bool:
    """A multipart that could not be split (no boundary, or nested too deep) is shown as text."""
    return content_type == "text/plain" or content_type.startswith("multipart/")


def _is_attached(part: AnyMessage) -> bool:
    try:
        return part.get_content_disposition() == "attachment" or bool(part.get_filename())
    except Exception:
        return True


def _text(part: AnyMessage) -> str:
    """Decode the text with its own charset or else with UTF-8, and mark each byte that fits neither."""
    content = _content(part)
    try:
        return readable(content.decode(part.get_content_charset() or "utf-8"))
    except Exception:
        return content.decode("utf-8", "replace")


def _content(part: AnyMessage) -> bytes:
    payload = part.get_payload()
    if isinstance(payload, list):  # an attached message, or a delivery report made of header blocks
        return b"\r\n".join(_source(child) for child in payload)
    try:
        decoded = part.get_payload(decode=True)
    except Exception:
        decoded = None
    return decoded if isinstance(decoded, bytes) else _bytes(str(payload))


def _source(message: object) -> bytes:
    try:
        return message.as_bytes() if isinstance(message, Message) else _bytes(str(message))
    except Exception:
        return b""


def _part(leaf: AnyMessage, number: int, content_type: str) -> Part:
    return Part(number, content_type, _filename(leaf, number, content_type), _content_id(leaf), _content(leaf))


def _filename(part: AnyMessage, number: int, content_type: str) -> str:
    """Return a safe name: no folders, nothing unprintable (a line break, a right-to-left override)."""
    try:
        claimed = readable(part.get_filename() or "")
    except Exception:
        claimed = ""
    name = re.split(r"[/\\]", claimed)[-1]
    name = "".join(character for character in name if character.isprintable()).strip(". ")
    return name[-MAX_FILENAME:] or f"part-{number}{mimetypes.guess_extension(content_type) or '.bin'}"


def _content_id(part: AnyMessage) -> str:
    raw = next((str(value) for name, value in part.raw_items() if name.lower() == "content-id"), "")
    return readable(raw).strip().removeprefix("<").removesuffix(">")


def _with_embedding(parts: list[Part], html: str) -> Iterator[Part]:
    for part in parts:
        embedded = bool(part.content_id) and f"cid:{part.content_id}" in html
        yield Part(part.number, part.content_type, part.filename, part.content_id, part.content, embedded)


def readable(text: str) -> str:
    """Return the text without lone surrogates, which no encoder accepts. Raw 8-bit bytes are read as UTF-8."""
    return _bytes(text).decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
