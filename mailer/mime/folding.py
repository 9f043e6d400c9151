"""Write header fields so that every reader gets the value back: encoded words (RFC 2047) and folding (RFC 5322, 2.2.3).

Python's own folding changes the spaces between encoded words, and may leave the first line empty
(https://github.com/python/cpython/issues/121284).
"""

import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from email.headerregistry import Address
from functools import cache

FOLDED_AT = 76
"""The longest line of quoted-printable (RFC 2045, 6.7) and of a header field with an encoded word (RFC 2047, 2)."""
LONGEST_LINE = 998
"""In octets, without CRLF (RFC 5322, 2.1.1)."""
SMALLEST = 24
"""Octets that an encoded word needs on a line that has begun. With less, it begins the next line."""
BREAK = re.compile(r"(?<=\S) (?=\S)")
"""Where a line may be broken: of several spaces in a row, each has to stay where it is."""
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
ATOMS = re.compile(rf"{ATOM}(?: {ATOM})*")
"""A name beside an address that needs no quotes (RFC 5322, 3.2.3; RFC 6532, 3.2)."""
SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
"""What stands for itself in an encoded word, also of a name (RFC 2047, 5)."""


class Encoded(str):
    """A text to write as encoded words."""

    __slots__ = ()


def text(name: str, value: str, *, utf8: bool) -> str:
    """Return a field that is a text, such as Subject, with the line ends. `utf8` permits UTF-8 in it (RFC 6532)."""
    return fold(name, _words(name, value, utf8=utf8))


def mailboxes(name: str, addresses: Sequence[Address], *, utf8: bool) -> str:
    """Return a field of mailboxes, such as To."""
    pieces: list[str] = []
    for number, address in enumerate(addresses, 1):
        comma = "," if number < len(addresses) else ""
        pieces += _mailbox(address, comma, utf8=utf8)
    return fold(name, pieces)


def fold(name: str, pieces: Sequence[str]) -> str:
    """Join pieces with spaces, and break lines between them. The first piece stands on the first line."""
    lines, line, is_begun = [], f"{name}:", False
    for piece in pieces:
        for part, is_tight in _parts(piece, FOLDED_AT - _size(line) - 1, is_begun=is_begun):
            if is_begun and (is_tight or _size(line) + 1 + _size(part) > FOLDED_AT):
                lines.append(line)
                line = ""
            line, is_begun = f"{line} {part}", True
    return "\r\n".join([*lines, line, ""])


def _parts(piece: str, room: int, *, is_begun: bool) -> Iterator[tuple[str, bool]]:
    """Yield what a piece is on each line, and whether it has to begin a line."""
    if not isinstance(piece, Encoded):
        yield piece, False
        return
    must_break = is_begun and room < SMALLEST
    for number, word in enumerate(_encoded_words(piece, FOLDED_AT - 1 if must_break else max(room, SMALLEST))):
        yield word, number > 0 or must_break


def _words(name: str, value: str, *, utf8: bool) -> list[str]:
    """Return the words of a text, or all of it as encoded words: beside one, readers disagree about spaces and brackets."""
    words: list[str] = BREAK.split(value)
    is_plain = (value.isascii() or utf8) and value.isprintable() and "=?" not in value and value == value.strip()
    is_foldable = all(len(word) < LONGEST_LINE for word in [f"{name}: {words[0]}", *words[1:]])
    return words if is_plain and is_foldable else [Encoded(value)]


def _mailbox(address: Address, comma: str, *, utf8: bool) -> list[str]:
    if not address.display_name:
        return [f"{address.addr_spec}{comma}"]
    return [*_name(address.display_name, utf8=utf8), f"<{address.addr_spec}>{comma}"]


def _name(name: str, *, utf8: bool) -> list[str]:
    if not ((name.isascii() or utf8) and name.isprintable()) or "=?" in name:
        return [Encoded(name)]
    if ATOMS.fullmatch(name):
        return name.split(" ")
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return BREAK.split(f'"{escaped}"')


def _encoded_words(value: str, room: int) -> Iterator[str]:
    """Yield encoded words for the whole value: the first one of at most `room` characters, the others of a line."""
    octets = value.encode()
    is_q = sum(map(_size_in_q, octets)) * 3 <= len(octets) * 4
    word = size = 0
    for number, character in enumerate(value):
        octets = character.encode()
        added = sum(map(_size_in_q, octets)) if is_q else len(octets)
        longest = room - len("=?utf-8?q??=")
        if size + added > (longest if is_q else longest // 4 * 3) and number > word:
            yield _encoded_word(value[word:number], is_q=is_q)
            word, size, room = number, 0, FOLDED_AT - 1
        size += added
    yield _encoded_word(value[word:], is_q=is_q)


def _encoded_word(value: str, *, is_q: bool) -> str:
    octets = value.encode()
    written = "".join(map(_quoted, octets)) if is_q else b2a_base64(octets, newline=False).decode()
    return f"=?utf-8?{'q' if is_q else 'b'}?{written}?="


@cache
def _quoted(octet: int) -> str:
    """Return how an octet is written in the encoding Q (RFC 2047, 4.2)."""
    return chr(octet) if octet in SAFE else "_" if octet == 0x20 else f"={octet:02X}"


def _size_in_q(octet: int) -> int:
    return len(_quoted(octet))


def _size(text: str) -> int:
    return len(text.encode())
