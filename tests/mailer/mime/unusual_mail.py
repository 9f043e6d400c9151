"""Messages of every shape that Django can build, for tests that compare our result with Django's."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage as PythonMessage
from email.message import MIMEPart
from email.mime.image import MIMEImage
from typing import Any

from anymail.message import AnymailMessage, attach_inline_image
from django.core.mail import EmailAttachment, EmailMessage, EmailMultiAlternatives
from django.utils.translation import gettext_lazy

from mailer.mime import encoding

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
ANN, BOB = "ann@example.com", "bob@example.com"
CALENDAR = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:ประชุม\r\nEND:VCALENDAR\r\n"

Make = Callable[[], EmailMessage]
SHAPES: dict[str, Make] = {}
"""Functions that make a message, by what is unusual about it. Two calls make equal messages."""


def shape(make: Make) -> Make:
    SHAPES[make.__name__.replace("_", " ")] = make
    return make


def a_message(**fields: Any) -> EmailMessage:
    return EmailMessage(**{"subject": "A subject", "body": "The text.\n", "to": [ANN]} | fields)


def normalised(source: bytes) -> bytes:
    """Replace what differs each time: boundaries, and a Date and Message-ID that Python generated."""
    for number, boundary in enumerate(dict.fromkeys(re.findall(rb"={15}\d{19}==|=[0-9a-f]{32}=", source))):
        source = source.replace(boundary, b"boundary-%d" % number)
    source = re.sub(rb"(?m)^Message-ID: <\d+\.\d+\.\d+@[^>]+>", b"Message-ID: <made>", source)
    return re.sub(rb"(?m)^Date: .*?(?=\r?$)", b"Date: now", source)


def as_sent(message: EmailMessage) -> bytes:
    """Return the bytes to transmit, normalised."""
    return normalised(message.message(policy=encoding.smtp_policy(eight_bit=True)).as_bytes())


@shape
def plain() -> EmailMessage:
    return a_message()


@shape
def nothing_but_a_recipient() -> EmailMessage:
    return EmailMessage(to=[ANN])


@shape
def every_field() -> EmailMessage:
    date: Any = datetime(2026, 11, 22, 5, 35, tzinfo=UTC)
    return EmailMessage(
        "A subject",
        "The text.",
        '"Shop, The" <shop@example.com>',
        [ANN, '"O\'Neil, Bob" <bob@example.com>'],
        cc=["Cid <cid@example.com>"],
        bcc=["dee@example.com", "eve@example.com"],
        reply_to=["Help <help@example.com>", "more@example.com"],
        headers={"X-Number": "5", "Date": date, "Message-ID": "<own@example.com>"},
    )


@shape
def local_mailboxes_without_a_domain() -> EmailMessage:
    return a_message(to=["root"], from_email="cron")


@shape
def only_blind_copies() -> EmailMessage:
    return EmailMessage("A subject", "The text.", bcc=[ANN, BOB])


@shape
def different_recipients_in_header_and_envelope() -> EmailMessage:
    headers = {"To": "A list <list@example.com>", "From": "Someone <else@example.com>", "Cc": "c@example.com"}
    return a_message(to=[ANN, BOB], headers=headers | {"Reply-To": [Address("Ann", "ann", "example.com")]})


@shape
def far_beyond_ascii() -> EmailMessage:
    return EmailMessage(
        "หัวข้อ ✉ " * 20,
        "Grüße, ภาษาไทย 😀\n" + "ก" * 2000 + "\n.\n..dots\nFrom the start\n",
        "Müller & Söhne <post@bücher.example>",
        ["สมชาย <somchai@example.com>", "ann@straße.example"],
        cc=["José <j@example.com>"],
        headers={"X-Thai": "ภาษา"},
    )


@shape
def line_ends_of_all_kinds() -> EmailMessage:
    return a_message(body="one\ntwo\r\nthree\rfour\u2028five\n\n\n", subject="A " + "very " * 40 + "long subject")


@shape
def lone_surrogates() -> EmailMessage:
    return a_message(subject="caf\udce9 au lait", headers={"X-Own": "caf\udce9"})


@shape
def lazy_strings() -> EmailMessage:
    lazy: Any = gettext_lazy
    return a_message(subject=lazy("Password"), body=lazy("Yes"), headers={"X-Lazy": lazy("No")}, to=[lazy(ANN)])


@shape
def address_objects() -> EmailMessage:
    return a_message(to=[Address("Ann Ä", "ann", "example.com")], from_email=Address("Shop", "shop", "example.com"))


@shape
def bytes_as_a_body() -> EmailMessage:
    return a_message(body="Grüße\n".encode())


@shape
def html_alone() -> EmailMessage:
    message = a_message(body="<p>Grüße</p>")
    message.content_subtype = "html"
    return message


@shape
def another_charset() -> EmailMessage:
    message = EmailMultiAlternatives("Grüße", "Grüße\n", to=[ANN])
    message.attach_alternative("<p>Grüße</p>", "text/html")
    message.encoding = "iso-8859-1"
    return message


@shape
def alternatives() -> EmailMessage:
    message = EmailMultiAlternatives("A subject", "The text.", to=[ANN])
    message.attach_alternative("<p>ข้อความ</p>", "text/html")
    message.attach_alternative("<p>⚡</p>", "text/x-amp-html")
    message.attach_alternative(CALENDAR, "text/calendar; method=REQUEST; component=VEVENT")
    message.attach_alternative(b"\0\1\2", "application/octet-stream")
    return message


@shape
def html_without_text_and_with_files() -> EmailMessage:
    message = EmailMultiAlternatives("A subject", to=[ANN])
    message.attach_alternative("<p>Hi</p>", "text/html")
    message.attach("ใบเสร็จ ธันวาคม.pdf", b"%PDF-1.7 \xff\xfe", "application/pdf")
    return message


@shape
def files_of_every_kind() -> EmailMessage:
    message = a_message()
    contents: list[Any] = [PNG, b"other", bytearray(b"a third")]
    for content in contents:
        message.attach("same name.png", content, "image/png")
    message.attach("notes.txt", "Grüße\r\n", "text/plain")
    message.attach("latin.txt", b"Gr\xfc\xdfe", "text/plain")
    message.attach("invite.ics", CALENDAR, "text/calendar; method=REQUEST")
    message.attach(None, "without a name", "text/plain")
    message.attach("data.json", '{"a": 1}', "application/json")
    message.attach("empty.bin", b"", None)
    message.attachments.append(EmailAttachment("by hand.csv", b"a,b\n", "text/csv"))
    return message


@shape
def files_alone() -> EmailMessage:
    message = EmailMessage("A subject", to=[ANN])
    message.attach("a.bin", PNG)
    return message


@shape
def messages_as_files() -> EmailMessage:
    forwarded = PythonMessage(policy=policy.default)
    forwarded["Subject"], forwarded["From"], forwarded["Message-ID"] = (
        "ต่อ " * 30,
        "Ä <a@example.com>",
        "<f@example.com>",
    )
    forwarded.set_content("Grüße " * 200)
    forwarded.add_attachment(PNG, maintype="image", subtype="png", filename="ภาพ.png")
    message = a_message()
    message.attach("python.eml", forwarded, "message/rfc822")
    message.attach("django.eml", every_field(), "message/rfc822")
    message.attach("text.eml", "Subject: hi\n\nGr\u00fc\u00dfe\n", "message/rfc822")
    message.attach("bytes.eml", b"Subject: hi\r\nX-Long: " + b"x" * 300 + b"\r\n\r\nbody", "message/rfc822")
    return message


@shape
def ready_parts() -> EmailMessage:
    message = EmailMultiAlternatives("A subject", "The text.", to=[ANN])
    message.attach_alternative('<img src="cid:logo">', "text/html")
    attach_inline_image(message, PNG, "โลโก้.png", "png", idstring="x" * 90)
    part = MIMEPart()
    part.set_content("Grüße " * 50, cte="quoted-printable", filename="long " * 30 + "ä.txt", disposition="attachment")
    part["X-Own"] = "ของเรา " * 30
    message.attach(part)
    outer: Any = MIMEPart()
    outer.make_related()
    inner = MIMEPart()
    inner.set_content(b"\0" * 100, "application", "x-own", params={"a": "b c", "title": "ชื่อ"})
    outer.attach(inner)
    message.attach(outer)
    return message


@shape
def a_part_of_the_old_kind() -> EmailMessage:
    message = a_message()
    image = MIMEImage(PNG, "png")
    image.add_header("Content-Disposition", "inline", filename="a b.png")
    image.add_header("Content-ID", "<logo@example.com>")
    message.attachments.append(image)  # attach() would tell that it is deprecated
    return message


@shape
def what_anymail_adds() -> EmailMessage:
    message: EmailMessage = AnymailMessage(
        "A subject", "The text.", to=[ANN, BOB], headers={"X-Own": "1"}, **FOR_PROVIDERS
    )
    return message


FOR_PROVIDERS: Mapping[str, Any] = {
    "esp_extra": {"MessageStream": "broadcast", "nested": {"list": [1, 2.5, None, True], "tuple": (1, "ä")}},
    "envelope_sender": "bounces@example.com",
    "metadata": {"order": 5, "price": Decimal("9.90"), "day": date(2026, 11, 22), "name": gettext_lazy("Password")},
    "send_at": datetime(2026, 11, 22, 5, 35, 1, 5, tzinfo=UTC),
    "tags": ["ใบเสร็จ", "b"],
    "track_clicks": False,
    "track_opens": None,
    "template_id": 17,
    "merge_data": {ANN: {"name": "Ann"}, BOB: {"name": "Bob \udce9"}},
    "merge_global_data": {"site": "Postcommit"},
    "merge_headers": {ANN: {"List-Unsubscribe": "<https://example.com/a>"}},
    "merge_metadata": {ANN: {"id": 1}},
}


class Signed(EmailMultiAlternatives):
    """Like S/MIME and OpenPGP classes: wraps the message that Django builds."""

    def message(self, *, policy: Any = policy.default) -> Any:
        built = super().message(policy=policy)
        inner = MIMEPart(policy=policy)
        inner.set_content(built.as_bytes(), "application", "pkcs7-mime", params={"smime-type": "signed-data"})
        outer: Any = PythonMessage(policy=policy)
        for name in ("Subject", "From", "To", "Date", "Message-ID"):
            if name in built:
                outer[name] = built[name]
        outer["X-Signed-By"] = "ä " * 60
        outer.make_mixed()
        outer.set_boundary("----a boundary of its own")
        outer.preamble = "This is an S/MIME signed message\r\n"
        outer.epilogue = "\r\n"
        outer.attach(inner)
        return outer


class AlwaysCopied(EmailMessage):
    """Adds a recipient that is in none of its fields."""

    def recipients(self) -> list[str]:
        return [*super().recipients(), "archive@example.com"]
