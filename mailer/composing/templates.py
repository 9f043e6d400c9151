"""Render an e-mail's templates in the recipient's language: subject, plain text, HTML with inlined CSS."""

import dataclasses
import re
import unicodedata
import zoneinfo
from dataclasses import dataclass
from email.utils import parseaddr
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.template import Context, TemplateDoesNotExist, VariableDoesNotExist
from django.template.loader import get_template
from django.utils import timezone, translation

from mailer.composing.css import inline_css
from mailer.composing.plain_text import plain_text
from mailer.conf import options
from mailer.email import Email, Recipient
from mailer.text import mask

log = structlog.get_logger(__name__)

UNSENDABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters and code points that UTF-8 cannot encode. RFC 5321 forbids NUL; HTML parsers fail on all of them."""
UNSENDABLE_ASCII = bytes(code for code in range(128) if UNSENDABLE.match(chr(code)))


@dataclass(frozen=True, slots=True)
class Content:
    """The rendered mail. The subject is one line; the HTML is a whole document."""

    subject: str
    text: str
    html: str


def render(email: Email, recipient: Recipient, *, unsubscribe_url: str = "") -> Content:
    """Render the three templates of the e-mail's folder. Only the HTML is escaped, not subject and text.

    The templates see `unsubscribe_url`. Without a `body.txt` the text is made from the HTML. Control characters and lone
    surrogates are removed. Raises what a template or the e-mail's own code raises.
    """
    zone = _zone(email, recipient)
    if zone is None:
        recipient = dataclasses.replace(recipient, time_zone=None)
    with (
        translation.override(recipient.language or settings.LANGUAGE_CODE),
        timezone.override(zone or timezone.get_default_timezone()),
    ):
        data = {
            **{field.name: getattr(email, field.name) for field in dataclasses.fields(email)},  # type: ignore[arg-type]
            "recipient": recipient,
            "site_name": site_name(),
            "site_url": settings.SITE_URL,
            "support_address": options().support_address,
            "unsubscribe_url": unsubscribe_url,
            "language": translation.get_language(),
            **email.context(),
        }
        subject = one_line(_render(f"{email.template}/subject.txt", data, escape=False))
        html = inline_css(_render(f"{email.template}/body.html", data | {"subject": subject}, escape=True))
        try:
            get_template(f"{email.template}/body.txt")
        except TemplateDoesNotExist:
            return Content(subject, plain_text(html), html)
        return Content(subject, _render(f"{email.template}/body.txt", data, escape=False).strip() + "\n", html)


def _zone(email: Email, recipient: Recipient) -> zoneinfo.ZoneInfo | None:
    """None: the site's. A name that is wrong, or that this machine does not know, must not keep a mail from leaving."""
    if not recipient.time_zone:
        return None
    try:
        return zoneinfo.ZoneInfo(str(recipient.time_zone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        log.warning("unknown time zone", kind=email.kind, time_zone=mask(str(recipient.time_zone))[:50])
        return None


def site_name() -> str:
    """Return the site's name for mails: the name in DEFAULT_FROM_EMAIL, or else the host of SITE_URL."""
    return _name_in(settings.DEFAULT_FROM_EMAIL) or urlsplit(settings.SITE_URL).hostname or settings.SITE_URL


@lru_cache(maxsize=8)
def _name_in(mailbox: str) -> str:
    return parseaddr(mailbox)[0]


def _render(template: str, data: dict[str, Any], *, escape: bool) -> str:
    try:
        # Django's template adapter always escapes; the template inside it obeys the context's `autoescape`.
        compiled = get_template(template).template  # type: ignore[attr-defined]
        rendered = str(compiled.render(Context(data, autoescape=escape)))
    except VariableDoesNotExist as error:  # its text would reveal the whole context, with secret links
        raise LookupError(f"{template} uses {error.params[0]!r}, which is not defined") from None
    except Exception as error:
        error.add_note(template)  # the error may come from an included file or from a field
        raise
    return _sendable(rendered.replace("\r\n", "\n").replace("\r", "\n"))


def _sendable(text: str) -> str:
    if text.isascii():  # a fifth of the time of the regular expression
        return text.encode().translate(None, UNSENDABLE_ASCII).decode()
    return UNSENDABLE.sub("", text)


def one_line(text: str) -> str:
    """Remove line breaks and control characters, which would end a header, and break up encoded words (RFC 2047)."""
    visible = "".join(c for c in text if unicodedata.category(c) != "Cc" or c.isspace())
    return " ".join(visible.split()).replace("=?", "= ?")
