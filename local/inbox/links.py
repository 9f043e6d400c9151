"""Make the links of a plain text clickable."""

import re

from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

# Bounded, so that trimming is always fast.
URL = re.compile(r"""https?://[^\s<>"]{1,2000}""", re.IGNORECASE)
CLOSING = {")": "(", "]": "[", "}": "{"}


def linked(text: str) -> SafeString:
    """Return the text as escaped HTML with its URLs as links. A URL is not changed: the mailed link opens."""
    pieces: list[str] = []
    position = 0
    for match in URL.finditer(text):
        url = _trimmed(match[0])
        pieces.append(escape(text[position : match.start()]))
        pieces.append(format_html('<a href="{0}" target="_blank" rel="noopener noreferrer">{0}</a>', url))
        position = match.start() + len(url)
    pieces.append(escape(text[position:]))
    return mark_safe("".join(pieces))  # noqa: S308 - every piece is escaped


def _trimmed(url: str) -> str:
    """Remove the punctuation of the sentence around a URL. A closing bracket stays if the URL opens it."""
    while url[-1] in ".,;:!?'*" or (url[-1] in CLOSING and url.count(url[-1]) > url.count(CLOSING[url[-1]])):
        url = url[:-1]
    return url
