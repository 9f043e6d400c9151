"""Prepare the body of a mail for its page: plain text with links, or HTML for a frame in which only its links work."""

import re
from collections.abc import Iterable

from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from local.inbox.reading import CID, MAX_CIDS, Part, content_ids

# Without the punctuation of the sentence around it. A closing bracket belongs to a URL that opens it.
URL = re.compile(r"""(https?://(?:\([^\s<>"()]{0,200}\)|[^\s<>"()]){1,2000}(?<![.,;:!?'*\]}]))""", re.IGNORECASE)
LINK = '<a href="{0}" target="_blank" rel="noopener noreferrer">{0}</a>'

# A link opens a new tab without the sandbox, so the site works there as usual.
SANDBOX = "allow-popups allow-popups-to-escape-sandbox"

# Comments may stand before the document type. Possessive, so that a hostile comment cannot make it backtrack.
DOCTYPE = re.compile(r"(?:\s|(?><!--.*?-->)|(?><\?[^>]*>))*+<!doctype[^>]*>", re.IGNORECASE | re.DOTALL)

# Chromium connects to the address of a frame before it asks the policy, so the names of all elements that load a page, and of
# those that name addresses for the whole document, are changed. A tag begins with "<" and its name wherever the HTML is nested
# or broken: no parser of ours has to agree with the browser's.
LOADING = re.compile(
    r"<(/?)(?=(?:iframe|frame|frameset|object|embed|applet|portal|fencedframe|link|meta|base)(?![^\s/>]))",
    re.IGNORECASE,
)


def linked(text: str) -> SafeString:
    """Return the text as escaped HTML with its URLs as links. A URL is not changed: the mailed link opens."""
    pieces = enumerate(URL.split(text))  # each second one is a URL
    return mark_safe("".join(format_html(LINK, piece) if n % 2 else escape(piece) for n, piece in pieces))  # noqa: S308


def framed(html: str, parts: Iterable[Part], parts_url: str) -> str:
    """Return the HTML with links that open a new tab, and with the mail's own pictures from parts_url."""
    by_content_id = {part.content_id: part for part in parts if part.content_id}

    def address(match: re.Match[str]) -> str:
        part = next((by_content_id[name] for name in content_ids(match[2]) if name in by_content_id), None)
        return f"{match[1]}{escape(parts_url)}{part.number}/" if part else match[0]

    html = LOADING.sub(r"<\1x-", CID.sub(address, html, count=MAX_CIDS))
    # Right after the document type: not inside a comment, and before any other base.
    match = DOCTYPE.match(html)
    start = match.end() if match else 0
    return f'{html[:start]}<base target="_blank">{html[start:]}'


def policy(parts_url: str) -> str:
    """Let the frame load the mail's own styles and pictures alone. Pictures of other sites would track the reader."""
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data: {parts_url}; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'self'; sandbox {SANDBOX}"
    )
