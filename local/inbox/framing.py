"""Prepares the HTML of a mail for its frame, in which it can do nothing but be looked at and have its links clicked."""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from django.utils.csp import CSP, build_policy
from django.utils.html import escape

from local.inbox.reading import Part

# A link opens a tab of its own, and the site in that tab works as always: the sandbox ends at the frame.
SANDBOX = "allow-popups allow-popups-to-escape-sandbox"

# Everything before the document type may be a comment; possessive, so that a hostile one cannot make it backtrack.
DOCTYPE = re.compile(r"(?:\s|(?><!--.*?-->)|(?><\?[^>]*>))*+<!doctype[^>]*>", re.IGNORECASE | re.DOTALL)
CID = re.compile(r"""(["'(=]\s*)cid:([^"'()\s<>]+)""", re.IGNORECASE)


def framed(html: str, parts: Iterable[Part], parts_url: str) -> str:
    """The HTML with links that open in a new tab, and pictures of the mail itself taken from parts_url."""
    return _with_base(_with_pictures(html, {part.content_id: part for part in parts if part.content_id}, parts_url))


def policy(parts_url: str) -> str:
    """What the frame may load: its own styles and its own pictures. What lies elsewhere would report the reader."""
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
    """The element goes right behind the document type, where no comment can hide it and no other one precedes it."""
    match = DOCTYPE.match(html)
    start = match.end() if match else 0
    return f'{html[:start]}<base target="_blank">{html[start:]}'


def _with_pictures(html: str, by_content_id: dict[str, Part], parts_url: str) -> str:
    def own_address(match: re.Match[str]) -> str:
        part = by_content_id.get(match[2]) or by_content_id.get(unquote(match[2]))
        return f"{match[1]}{escape(parts_url)}{part.number}/" if part else match[0]

    return CID.sub(own_address, html)
