"""An e-mail and its template folder → subject, plain text, HTML with inlined CSS, in the recipient's language."""

import dataclasses
import unicodedata
import zoneinfo
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.headerregistry import Address
from typing import Any

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template import Context, VariableDoesNotExist
from django.template.loader import get_template
from django.utils import timezone, translation

from mailer.email import Email, Recipient
from mailer.inlining import inline_css


@dataclass(frozen=True, slots=True)
class Content:
    """What a reader sees. The subject is one line; the HTML is a whole document."""

    subject: str
    text: str
    html: str


def render(email: Email, recipient: Recipient) -> Content:
    """Renders the three templates of the e-mail's folder. Subject and text are not HTML-escaped; the HTML is.

    Whatever a template or the e-mail's own code raises comes out as it is.
    """
    with _language_and_time_zone_of(recipient):
        data = {
            **{field.name: getattr(email, field.name) for field in dataclasses.fields(email)},  # type: ignore[arg-type]
            "recipient": recipient,
            "site_url": settings.SITE_URL,
            "language": translation.get_language(),
            **email.context(),
        }
        subject = _one_line(_render(f"{email.template}/subject.txt", data, escape=False))
        return Content(
            subject=subject,
            text=_render(f"{email.template}/body.txt", data, escape=False).strip() + "\n",
            html=inline_css(_render(f"{email.template}/body.html", data | {"subject": subject}, escape=True)),
        )


def build(
    content: Content,
    recipient: Recipient,
    *,
    message_id: str,
    cc: Sequence[Recipient] = (),
    bcc: Sequence[Recipient] = (),
) -> EmailMultiAlternatives:
    """The multipart message, ready to be transmitted; `message_id` is its RFC 5322 Message-ID."""
    message = EmailMultiAlternatives(
        subject=content.subject,
        body=content.text,
        to=[_mailbox(recipient)],
        cc=[_mailbox(each) for each in cc],
        bcc=[_mailbox(each) for each in bcc],
        headers={
            "Message-ID": message_id,
            "Auto-Submitted": "auto-generated",
        },  # RFC 3834: no out-of-office reply, please
    )
    message.attach_alternative(content.html, "text/html")
    return message


def _render(template: str, data: dict[str, Any], *, escape: bool) -> str:
    # Django's template adapter escapes .txt as well; the template underneath does as its context says.
    compiled = get_template(template).template  # type: ignore[attr-defined]
    try:
        return str(compiled.render(Context(data, autoescape=escape)))
    except VariableDoesNotExist as error:  # its own text holds the whole context, with the secret of a link in it
        raise LookupError(f"{template} uses {error.params[0]!r}, which is not there") from None


def _mailbox(recipient: Recipient) -> str:
    return str(Address(_one_line(recipient.name), addr_spec=recipient.address))


def _one_line(text: str) -> str:
    """Without line breaks and control characters: a header ends where one of them stands."""
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cc" or c.isspace()).split())


@contextmanager
def _language_and_time_zone_of(recipient: Recipient) -> Iterator[None]:
    zone = zoneinfo.ZoneInfo(recipient.time_zone) if recipient.time_zone else timezone.get_default_timezone()
    with translation.override(recipient.language or settings.LANGUAGE_CODE), timezone.override(zone):
        yield
