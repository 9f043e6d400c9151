"""HTML with a <style> element → HTML with style attributes, which is what many mail clients want.

Two engines do the same: css_inline, in a tenth of a millisecond, and premailer, against which the tests hold it.
POSTCOMMIT_INLINER chooses. Neither opens a connection or a file, whatever the HTML asks for.
"""

import logging
import re
from functools import lru_cache
from threading import Lock

import css_inline
import cssutils
from premailer import Premailer

from mailer.conf import options

# cssutils complains about every modern property, and every mail client is free to ignore those.
cssutils.log.setLevel(logging.CRITICAL)

KEPT_STYLE = re.compile(r'<style data-inline="no">(.*?)</style>', re.DOTALL)
PLACE = '<!--"kept style"-->'  # a comment, which both engines leave where it is; escaped text never looks like one


def inline_css(html: str) -> str:
    """Returns the document with its CSS in style attributes; media queries stay in a <style> element.

    A `<style data-inline="no">` is kept as it is: what the engines would drop, such as selectors that match nothing yet.
    """
    kept = KEPT_STYLE.findall(html)
    inlined = ENGINES[options().inliner](KEPT_STYLE.sub(PLACE, html))
    for css in kept:
        inlined = inlined.replace(PLACE, f"<style>{css}</style>", 1)
    # Both make <html> and <body> where they are missing, but no doctype, without which clients fall into quirks mode.
    return inlined if inlined[:9].lower() == "<!doctype" else f"<!DOCTYPE html>\n{inlined}"


_css_inline = css_inline.CSSInliner(
    load_remote_stylesheets=False,
    keep_link_tags=True,  # as premailer does; a <link> for Outlook's sake is none of our business
    keep_at_rules=True,
)


class OfflinePremailer(Premailer):  # type: ignore[misc]  # premailer has no types
    """Premailer that opens no file and no connection, whatever the CSS asks for."""

    def _parse_css_string(self, css_body: str, validate: bool = True) -> cssutils.css.CSSStyleSheet:
        return _parse(css_body, validate)


@lru_cache(maxsize=256)
def _parse(css: str, validate: bool) -> cssutils.css.CSSStyleSheet:
    return cssutils.CSSParser(fetcher=_fetch_nothing, validate=validate).parseString(css)


def _fetch_nothing(url: str) -> tuple[None, bytes]:
    """cssutils follows @import over HTTP and into file:// by default; what a mail needs stands in its template."""
    return None, b""


_one_at_a_time = Lock()


def _premailer(html: str) -> str:
    with _one_at_a_time:  # a worker may have threads, and cssutils is not made for them (premailer's issue 65)
        document: str = OfflinePremailer(
            allow_network=False,
            disable_validation=True,  # validation would drop rgb() and other CSS that is younger than cssutils
            strip_important=False,  # it would also strip it from media queries, which then lose to the inlined rules
            cssutils_logging_level=logging.CRITICAL,
        ).transform(html, pretty_print=False)
    return document


ENGINES = {"css_inline": _css_inline.inline, "premailer": _premailer}
