"""Prepare the HTML of a mail for its frame, in which only its links work."""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from django.utils.csp import CSP, build_policy
from django.utils.html import escape

from local.inbox.reading import Part

# A link opens a new tab without the sandbox, so the site works there as usual.
SANDBOX = "allow-popups allow-popups-to-escape-sandbox"

# Comments may stand before the document type. Possessive, so that a hostile comment cannot make it backtrack.
DOCTYPE = re.compile(r"(?:\s|(?><!--.*?-->)|(?><\?[^>]*>))*+<!doctype[^>]*>", re.IGNORECASE | re.DOTALL)
CID = re.compile(r"""(["'(=]\s*)cid:([^"'()\s<>]+)""", re.IGNORECASE)


def framed(html: str, parts: Iterable[Part], parts_url: str) -> str:
    """Return the HTML with links that open a new tab, and with the mail's own pictures from parts_url."""
    return _with_base(_with_pictures(html, {part.content_id: part for part in parts if part.content_id}, parts_url))


def policy(parts_url: str) -> str:
    """Let the frame load the mail's own styles and pictures alone. Pictures of other sites would track the reader."""
    return build_policy(
        {
            "default-src": CSP.NONE,
            "style-src": CSP.UNSAFE_INLINE,
            "img-src": ["data:", parts_url],
            "base-uri": CSP.NONE,
            "form-action": CSP.NONE,
            "frame-ancestors": CSP.SELF,
            "sandbox": SANDBOX,
        }
    )


def _with_base(html: str) -> str:
    """Put the element right after the document type: not inside a comment, and before any other base."""
    match = DOCTYPE.match(html)
    start = match.end() if match else 0
    return f'{html[:start]}<base target="_blank">{html[start:]}'


def _with_pictures(html: str, by_content_id: dict[str, Part], parts_url: str) -> str:
    def address(match: re.Match[str]) -> str:
        part = by_content_id.get(match[2]) or by_content_id.get(unquote(match[2]))
        return f"{match[1]}{escape(parts_url)}{part.number}/" if part else match[0]

    return CID.sub(address, html)
