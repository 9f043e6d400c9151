"""Text for logs, tables and people: mask addresses and codes, replace characters that PostgreSQL refuses, write times.

Imports nothing of ours, so that the logging configuration can use it before Django is set up.
"""

import re
from datetime import UTC, datetime

LOCAL_PART = r"[\w.!#$%&'*+/=?^`{|}~-]"  # RFC 5322, 3.2.3: atext
# Bounded, or a long word without an @ takes quadratic time: a minute for 60,000 characters.
ADDRESS = re.compile(rf"({LOCAL_PART}){LOCAL_PART}{{0,320}}((?:@|%40)[\w-]+(?:\.[\w-]+)+)")
CODE = re.compile(r"(?<![\w-])(?:[0-9a-f]{40}|[0-9a-z]{1,13}-[0-9a-f]{32})(?![\w-])")
"""The secret of a link. Servers often quote the link that they refuse."""
UNSUBSCRIBE_LINK = re.compile(r"(/unsubscribe/\W*)[\w-]+", re.IGNORECASE)
"""An unsubscribe link works for everyone who has it, so it must not be logged (`mailer.recipients.subscriptions`)."""


def mask(text: str) -> str:
    """Mask addresses, as in `a***@example.com`, and the codes of links."""
    return UNSUBSCRIBE_LINK.sub(r"\1***", CODE.sub("***", ADDRESS.sub(r"\1***\2", text)))


def hide_codes(text: str) -> str:
    """Hide what makes links work, and codes of six digits. For people who may see a mail but must not act for its reader.

    Of a link only the host is left: what in it is secret, only the application knows that made it.
    """
    hidden = LINK.sub(r"\1/***", CODE.sub("***", text))
    return SIX_DIGITS.sub("***", UNSUBSCRIBE_LINK.sub(r"\1***", hidden))


LINK = re.compile(
    r"""([a-z][a-z0-9+.-]{0,30}://[^/?#\\\s"'<>]*|(?<![a-z0-9.-])(?:[a-z0-9-]+\.)+[a-z]{2,})[/?#\\][^\s"'<>]+""",
    re.IGNORECASE,
)
"""Of any scheme, or without one, as mail clients find links in a text. A letter may precede it: Thai has no spaces."""
SIX_DIGITS = re.compile(
    r"(?:(?<![A-Za-z0-9_#.,/+-])|(?<=[A-Za-z]-))"
    r"\d{3}(?:[ \u00a0\u2009\u202f\u2010-\u2013-]|&nbsp;)?\d{3}(?![A-Za-z0-9_.,/-]*[A-Za-z0-9_])"
)
"""As in "493 021" or "G-493021", but no part of a larger number or of a colour."""


def in_words(error: BaseException) -> str:
    """Return what an error of the network says, without the name of a class or the number of an error."""
    said = OPENSSL.sub("", str(getattr(error, "strerror", None) or error)).strip(" .")
    return said or NO_WORDS.get(type(error), "the connection broke")


OPENSSL = re.compile(r"^\[\w+: \w+\] | \(_ssl\.c:\d+\)$")
"""What Python's ssl writes around the words."""
NO_WORDS: dict[type[BaseException], str] = {
    TimeoutError: "no answer in time",
    ConnectionResetError: "the connection was reset",
}


def replace_unstorable(text: str) -> str:
    """Replace NUL and lone surrogates, which mail and file names can contain and PostgreSQL refuses."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def clock(moment: datetime | None) -> str:
    """Write a moment to the second, with its zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else ""
