"""Inline CSS: turn <style> elements into style attributes, which many mail clients need.

POSTCOMMIT_INLINER chooses the engine: css_inline, which is fast, or premailer; the tests compare the two. Neither opens a
connection or a file, even if the HTML refers to one.
"""

import re

import css_inline

from mailer.conf import options

KEPT = re.compile(
    r'<(?:!--.*?-->|(?P<kept>(?i:style data-inline="no">.*?</style>|!\[(?:if\b[^\]>]*|endif)\]>)))', re.DOTALL
)  # a first letter that is no choice makes it six times as fast
"""Outside comments: a style to keep, and Outlook's `<![if !mso]>` and `<![endif]>`, of which both engines make comments."""
PLACEHOLDER = '<!--"kept"-->'  # both engines keep comments in place, and escaped text cannot look like one


def inline_css(html: str) -> str:
    """Return the document with its CSS in style attributes; media queries stay in a <style> element.

    A `<style data-inline="no">` stays unchanged; the engines would drop selectors that match nothing.
    """
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        if not found["kept"]:
            return found[0]
        kept.append(found[0].replace(' data-inline="no"', "", 1))
        return PLACEHOLDER

    inlined = ENGINES[options().inliner](KEPT.sub(keep, html))
    for each in kept:
        inlined = inlined.replace(PLACEHOLDER, each, 1)
    # Both engines add a missing <html> and <body>, but no doctype; without it, clients use quirks mode.
    return inlined if inlined[:9].lower() == "<!doctype" else f"<!DOCTYPE html>\n{inlined}"


_css_inline = css_inline.CSSInliner(
    load_remote_stylesheets=False,
    keep_link_tags=True,  # as premailer does
    keep_at_rules=True,
)


def _premailer(html: str) -> str:
    from mailer.composing import premailer  # an extra, which need not be installed

    return premailer.inline(html)


ENGINES = {"css_inline": _css_inline.inline, "premailer": _premailer}
