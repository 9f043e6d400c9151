"""The CSS engine premailer. css.py loads this module when POSTCOMMIT_INLINER chooses it: the library is an extra."""

import logging
from functools import lru_cache
from threading import Lock

import cssutils
from premailer import Premailer

# cssutils complains about every modern property, and every mail client is free to ignore those.
cssutils.log.setLevel(logging.CRITICAL)


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


def inline(html: str) -> str:
    with _one_at_a_time:  # a worker may have threads, and cssutils is not made for them (premailer's issue 65)
        document: str = OfflinePremailer(
            allow_network=False,
            disable_validation=True,  # validation would drop rgb() and other CSS that is younger than cssutils
            strip_important=False,  # it would also strip it from media queries, which then lose to the inlined rules
            cssutils_logging_level=logging.CRITICAL,
        ).transform(html, pretty_print=False)
    return document
