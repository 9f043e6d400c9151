"""HTML with a <style> element → HTML with style attributes, which is what many mail clients want."""

import logging
from functools import lru_cache

import cssutils
from premailer import Premailer

# cssutils complains about every modern property, and every mail client is free to ignore those.
cssutils.log.setLevel(logging.CRITICAL)


def _fetch_nothing(url: str) -> tuple[None, bytes]:
    """cssutils follows @import over HTTP and into file:// by default; what a mail needs stands in its template."""
    return None, b""


@lru_cache(maxsize=256)
def _parse(css: str, validate: bool) -> cssutils.css.CSSStyleSheet:
    return cssutils.CSSParser(fetcher=_fetch_nothing, validate=validate).parseString(css)


class OfflinePremailer(Premailer):  # type: ignore[misc]  # premailer has no types
    """Premailer that opens no file and no connection, whatever the CSS asks for."""

    def _parse_css_string(self, css_body: str, validate: bool = True) -> cssutils.css.CSSStyleSheet:
        return _parse(css_body, validate)


def inline_css(html: str) -> str:
    """Returns the document with its CSS in style attributes; media queries stay in a <style> element."""
    document: str = OfflinePremailer(
        allow_network=False,
        disable_validation=True,  # validation would drop rgb() and other CSS that is younger than cssutils
        keep_style_tags=False,
        cssutils_logging_level=logging.CRITICAL,
    ).transform(html, pretty_print=False)
    # premailer writes the doctype back in lower case and without its line; clients in quirks mode look for the usual form
    return document if document.lower().startswith("<!doctype") else f"<!DOCTYPE html>\n{document}"
