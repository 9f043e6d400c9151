"""Inline CSS: turn <style> elements into style attributes, which many mail clients need.

POSTCOMMIT_INLINER chooses the engine: css_inline, which is fast, or premailer; the tests compare the two. Neither opens a
connection or a file, even if the HTML refers to one.
"""

import logging
import re
from functools import lru_cache
from threading import Lock

import css_inline
import cssutils
from premailer import Premailer

from mailer.conf import options

# cssutils warns about every modern property; mail clients ignore what they do not know.
cssutils.log.setLevel(logging.CRITICAL)

KEPT_STYLE = re.compile(r'<style data-inline="no">(.*?)</style>', re.DOTALL)
PLACEHOLDER = '<!--"kept style"-->'  # both engines keep comments in place, and escaped text cannot look like one


def inline_css(html: str) -> str:
    """Return the document with its CSS in style attributes; media queries stay in a <style> element.

    A `<style data-inline="no">` stays unchanged; the engines would drop selectors that match nothing.
    """
    kept = KEPT_STYLE.findall(html)
    inlined = ENGINES[options().inliner](KEPT_STYLE.sub(PLACEHOLDER, html))
    for css in kept:
        inlined = inlined.replace(PLACEHOLDER, f"<style>{css}</style>", 1)
    # Both engines add a missing <html> and <body>, but no doctype; without it, clients use quirks mode.
    return inlined if inlined[:9].lower() == "<!doctype" else f"<!DOCTYPE html>\n{inlined}"


_css_inline = css_inline.CSSInliner(
    load_remote_stylesheets=False,
    keep_link_tags=True,  # as premailer does
    keep_at_rules=True,
)


class OfflinePremailer(Premailer):  # type: ignore[misc]  # premailer has no types
    """Premailer that opens no file and no connection, even if the CSS refers to one."""

    def _parse_css_string(self, css_body: str, validate: bool = True) -> cssutils.css.CSSStyleSheet:
        return _parse(css_body, validate)


@lru_cache(maxsize=256)
def _parse(css: str, validate: bool) -> cssutils.css.CSSStyleSheet:
    return cssutils.CSSParser(fetcher=_fetch_nothing, validate=validate).parseString(css)


def _fetch_nothing(url: str) -> tuple[None, bytes]:
    """Ignore @import, which cssutils follows to http:// and file:// by default."""
    return None, b""


_one_at_a_time = Lock()


def _premailer(html: str) -> str:
    with _one_at_a_time:  # cssutils is not thread-safe (premailer's issue 65), and a worker may have threads
        document: str = OfflinePremailer(
            allow_network=False,
            disable_validation=True,  # validation would drop CSS that cssutils does not know, such as rgb()
            strip_important=False,  # media queries need !important to override the inlined rules
            cssutils_logging_level=logging.CRITICAL,
        ).transform(html, pretty_print=False)
    return document


ENGINES = {"css_inline": _css_inline.inline, "premailer": _premailer}
