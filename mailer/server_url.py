"""Read the URL of a server with a user and a password in it. Imports nothing of the mailer.

A `#`, `?` or `/` in a password ends the host for `urlsplit`, a second `:` or `@` is read in one way by one library and in
another by the next. Such a URL is refused, and all others get a form that every library reads in the same way.
"""

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

HOW = (
    "in a user or password write @ : / ? # % as %40 %3A %2F %3F %23 %25; this asks for one and prints it so: "
    """python3 -c 'from urllib.parse import quote; print(quote(input(), ""))'"""
)
UNREADABLE = f"not a URL with a host and a port that is a number; {HOW}"

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?:(?P<login>[^:/?#]*(?::[^:/?#]*)?)@)?(?P<server>[^@#]*)")
"""The last @ ends user and password."""


def normalized(url: str) -> str:
    """Return the URL with everything unusual in its user and password percent-encoded.

    Raises ValueError with a sentence, which does not show the URL, if it may mean something else than was meant.
    """
    found = URL.fullmatch(url)
    try:
        if not found or not url.isprintable():
            raise ValueError
        login = found["login"] and ":".join(map(_encoded, found["login"].split(":")))
    except ValueError:
        raise ValueError(UNREADABLE) from None
    return f"{found['scheme']}{login}@{found['server']}" if login else f"{found['scheme']}{found['server']}"


def _encoded(part: str) -> str:
    return quote(unquote(part, errors="strict"), safe="")


def split(url: str) -> SplitResult:
    """Split the URL of a server. Raises the same ValueError."""
    return split_any(normalized(url))


def split_any(url: str) -> SplitResult:
    """Split any URL. Raises ValueError without the URL in its text; urlsplit's own shows the URL, and so its password."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError as well
    except ValueError:
        raise ValueError(UNREADABLE) from None
    return parts
