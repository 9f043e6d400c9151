"""The CSS engine premailer. css.py loads this module when POSTCOMMIT_INLINER chooses it: the library is an extra."""

import logging
from functools import lru_cache
from threading import Lock

import cssutils
from premailer import Premailer

# cssutils warns about every modern property; mail clients ignore what they do not know.
cssutils.log.setLevel(logging.CRITICAL)


class OfflinePremailer(Premailer):  # type: ignore[misc]  # premailer has no types
    """Premailer that opens no file and no connection, even if the CSS refers to one."""

    def _parse_css_string(self, css_body: str, validate: bool = True) -> cssutils.css.CSSStyleSheet:
        return _parse(css_body, validate)


@lru_cache(maxsize=256)
def _parse(css: str, validate: bool) -> cssutils.css.CSSStyleSheet:
    # By default cssutils follows @import to http:// and file://.
    return cssutils.CSSParser(fetcher=lambda url: (None, b""), validate=validate).parseString(css)


_one_at_a_time = Lock()


def inline(html: str) -> str:
    """Return the document with its CSS in style attributes."""
    with _one_at_a_time:  # cssutils is not thread-safe (premailer's issue 65), and a worker may have threads
        document: str = OfflinePremailer(
            allow_network=False,
            disable_validation=True,  # validation would drop CSS that cssutils does not know, such as rgb()
            strip_important=False,  # media queries need !important to override the inlined rules
            cssutils_logging_level=logging.CRITICAL,
        ).transform(html, pretty_print=False)
    return document
