"""SMTP with a real server: 8bit or encoded, addresses that need SMTPUTF8, no line too long."""

from collections.abc import Callable, Iterator, Sequence
from email.headerregistry import Address
from email.message import EmailMessage as Entity
from email.message import MIMEPart
from email.mime.text import MIMEText

import pytest
from django.core import mail
from django.core.mail import EmailAttachment, EmailMessage, EmailMultiAlternatives
from fast_mail_parser import parse_email
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from mailer import addresses, outbox
from mailer.mime import encoding
from mailer.models import Message, State
from mailer.outcomes import Accepted, PermanentRefusal, TransportDown
from tests.mailer.kinds import Plain, Shared
from tests.mailer.transports.sending import send
from tests.mailer.worker import deliver
from tests.smtp_sink import Received, Sink

THAI = "สวัสดีครับ กรุณายืนยันที่อยู่อีเมลของคุณ " * 5
LONG = "x" * 5000


@pytest.fixture(params=["8BITMIME", "7bit"])
def server(request: pytest.FixtureRequest, through: Callable[[str], None]) -> Iterator[Sink]:
    """A server with 8BITMIME, and one without."""
    with Sink(without=() if request.param == "8BITMIME" else ("8BITMIME", "SMTPUTF8")) as sink:
        through(sink.url)
        yield sink


@pytest.fixture
def plain_server(through: Callable[[str], None]) -> Iterator[Sink]:
    """A server without 8BITMIME and SMTPUTF8."""
    with Sink(without=("8BITMIME", "SMTPUTF8")) as sink:
        through(sink.url)
        yield sink


def text(body: str = "Grüße\n", to: Sequence[str] = ("ann@example.com",), **fields: object) -> EmailMessage:
    return EmailMessage("Hello", body, "us@example.com", to, **fields)  # type: ignore[arg-type]


def sent(sink: Sink, message: EmailMessage) -> Received:
    outcome = send(message)
    assert isinstance(outcome, Accepted), outcome
    [received] = sink.received
    return received


def lines(source: bytes) -> Sequence[bytes]:
    assert source.endswith(b"\r\n")
    found = source.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in found)
    return found


def built_by_hand(content: bytes, kind: str = "text/plain", encoding: str = "8bit") -> MIMEPart:
    """Make a part that declares `encoding` and contains just that."""
    part = MIMEPart()
    part["Content-Type"] = kind if "charset" in kind or not kind.startswith("text") else f'{kind}; charset="utf-8"'
    part["Content-Transfer-Encoding"] = encoding
    part.set_payload(content.decode("ascii", "surrogateescape"))
    return part


def with_preamble(preamble: bytes) -> MIMEPart:
    container = MIMEPart()
    container["Content-Type"] = "multipart/mixed"
    container.set_payload([built_by_hand(b"Hello")])
    container.preamble = container.epilogue = preamble.decode("ascii", "surrogateescape")
    return container


def with_html(html: str) -> EmailMessage:
    message = EmailMultiAlternatives("Hello", "Grüße\n", "us@example.com", ["ann@example.com"])
    message.attach_alternative(html, "text/html")
    return message


def forwarded() -> Entity:
    inner = Entity()
    inner["Subject"] = "Grüße"
    inner["From"] = "bob@example.com"
    inner.set_content(f"Schöne Grüße\n{LONG}é\n", cte="8bit")
    return inner


NASTY = {
    "nothing": text(""),
    "ASCII": text("Hello\n"),
    "8-bit text": text(),
    "Thai": text(THAI),
    "a long line": text(f"{LONG}\n"),
    "a long 8-bit line": text("é" * 5000),
    "exactly 998 octets": text("é" * 499),
    "998 octets and one": text("é" * 499 + "x"),
    "leading dots": text(".\n..\n.é\n\n.\n"),
    "trailing spaces": text("é  \t \n \n\n\n\n"),
    "bare CR and CRLF": text("é\rb\r\nc\n\rd"),
    "Unicode's line ends": text("é\u2028\x85\x0b\x0c\x1cx"),
    "NUL": text("é\0a"),
    "another charset": text("Grüße"),
    "HTML in one line": with_html(f"<p>{'é' * 5000}</p>"),
    "a text attachment": text(attachments=[EmailAttachment("ü.txt", "Grüße " * 400, "text/plain")]),
    "bytes": text(attachments=[EmailAttachment("x.bin", bytes(range(256)) * 40, "application/octet-stream")]),
    "an 8bit part": text(attachments=[built_by_hand("Grüße\n".encode())]),
    "an 8bit part without a charset": text(attachments=[built_by_hand("Grüße\n".encode(), "text/plain; charset=")]),
    "an 8bit part with a long line": text(attachments=[built_by_hand("é".encode() * 5000)]),
    "an 8bit part that is not text": text(attachments=[built_by_hand(b"\xff\xfe\n" * 50, "image/x-odd")]),
    "a binary part": text(attachments=[built_by_hand(bytes(range(256)), "image/png", "binary")]),
    "base64 in one line": text(attachments=[built_by_hand(b"eHh4" * 2000, "image/png", "base64")]),
    "a part that lies": text(attachments=[built_by_hand("Grüße".encode(), encoding="7bit")]),
    "a part with NUL": text(attachments=[built_by_hand(b"a\0b")]),
    "a preamble": text(attachments=[with_preamble("Grüße".encode())]),
    "a message as a string": text(attachments=[built_by_hand(b"Subject: x\n\nbody\n", "message/rfc822", "7bit")]),
    "a forwarded message": text(attachments=[EmailAttachment(None, forwarded(), "message/rfc822")]),
    "a long name": EmailMessage("H", "b", f"{'Ü' * 500} <us@example.com>", ["ann@example.com"]),
    "a long subject": EmailMessage(LONG + "é", "b", "us@example.com", ["ann@example.com"]),
}
NASTY["another charset"].encoding = "iso-8859-1"


@pytest.mark.parametrize("message", NASTY.values(), ids=NASTY.keys())
def test_every_message_suits_every_server(message: EmailMessage, server: Sink) -> None:
    received = sent(server, message)

    takes_8bit = not server.without
    assert max(map(len, lines(received.source))) <= 998
    assert b"\0" not in received.source
    assert received.source.split(b"\r\n\r\n")[0].isascii()
    assert takes_8bit or received.source.isascii()
    assert ("BODY=8BITMIME" in received.mail_options) == (not received.source.isascii())


@pytest.mark.parametrize("message", NASTY.values(), ids=NASTY.keys())
def test_8bit_and_7bit_have_the_same_content(message: EmailMessage) -> None:
    def contents(*, eight_bit: bool) -> list[tuple[str, bytes | None]]:
        parsed = Received("", [], encoding.octets(encoding.build(message, eight_bit=eight_bit))).parsed
        return [
            (part.get_content_type(), (part.get_payload(decode=True) or b"").rstrip(b"\r\n").replace(b"\r\n", b"\n"))  # type: ignore[union-attr]
            for part in parsed.walk()
            if not part.is_multipart()
        ]

    assert contents(eight_bit=True) == contents(eight_bit=False)


@pytest.mark.parametrize("name", ["8-bit text", "Thai", "an 8bit part", "exactly 998 octets"])
def test_8bit_text_is_not_encoded_for_a_server_with_8bitmime(name: str, smtp: Sink) -> None:
    received = sent(smtp, NASTY[name])

    assert "BODY=8BITMIME" in received.mail_options
    assert not received.source.isascii()
    assert b"base64" not in received.source
    assert b"quoted-printable" not in received.source


def test_lines_of_encoded_text_are_as_long_as_mime_allows(plain_server: Sink) -> None:
    """RFC 2045, 6.7 and 6.8."""
    received = sent(plain_server, text("Grüße und " + "noch viel mehr " * 90))

    assert received.parsed["Content-Transfer-Encoding"] == "quoted-printable"
    assert max(map(len, lines(received.source))) <= 76


def test_lines_of_encoded_text_end_with_crlf(plain_server: Sink) -> None:
    """RFC 2046, 4.1.1: Python's parts keep a bare LF, and base64 would preserve it."""
    received = sent(plain_server, text("Hello", attachments=[built_by_hand(f"{THAI}\n{THAI}\n".encode())]))

    [attached] = received.parsed.iter_attachments()
    assert attached.get_payload(decode=True) == f"{THAI}\r\n{THAI}\r\n".encode()


def test_a_container_with_8bit_content_declares_it(smtp: Sink) -> None:
    received = sent(smtp, with_html("<p>é</p>"))

    assert received.parsed["Content-Transfer-Encoding"] == "8bit"


def test_the_callers_parts_are_not_changed(plain_server: Sink) -> None:
    """A second transport with other extensions gets the same message."""
    part = built_by_hand("Grüße\n".encode())
    before = part.as_bytes()

    received = sent(plain_server, text("Hello", attachments=[part]))

    assert received.source.isascii()
    assert part.as_bytes() == before


@pytest.mark.filterwarnings("ignore:MIMEBase attachments are deprecated")
def test_a_part_of_the_legacy_email_api_is_encoded_too(plain_server: Sink) -> None:
    part = MIMEText("Grüße", _charset="utf-8")
    del part["Content-Transfer-Encoding"]
    part["Content-Transfer-Encoding"] = "8bit"
    part.set_payload("Grüße".encode().decode("ascii", "surrogateescape"))
    message = text("Hello")
    message.attach(part)

    received = sent(plain_server, message)

    assert received.source.isascii()
    [attached] = received.parsed.iter_attachments()
    assert attached.get_content().strip() == "Grüße"


def test_a_long_url_in_a_header_is_not_encoded(smtp: Sink) -> None:
    """Python would fold it into encoded words, which mail clients do not decode to unsubscribe."""
    url = f"<https://example.com/unsubscribe/{'a' * 300}>, <mailto:leave@example.com?subject={'b' * 90}>"

    received = sent(smtp, text(headers={"List-Unsubscribe": url}))

    assert f"List-Unsubscribe: {url}".replace(", ", ",\r\n ").encode() in received.source


def test_a_header_that_cannot_be_folded_fails_the_message(smtp: Sink) -> None:
    outcome = send(text(headers={"Message-ID": f"<{LONG}@example.com>"}))

    assert outcome == PermanentRefusal(
        "", "a header has more than 998 octets without a space to fold it at (RFC 5322, 2.1.1)"
    )
    assert smtp.received == []


def test_an_international_domain_is_sent_in_ascii_to_any_server(plain_server: Sink) -> None:
    message = EmailMessage("Hello", "x", "us@exämple.com", ["Jörg <jorg@bücher.example>"], cc=["ann@example.com"])

    received = sent(plain_server, message)

    assert (received.sender, received.recipients) == (
        "us@xn--exmple-cua.com",
        ["jorg@xn--bcher-kva.example", "ann@example.com"],
    )
    assert "jorg@xn--bcher-kva.example" in received.parsed["To"]
    assert "SMTPUTF8" not in received.mail_options


INTERNATIONAL = {
    "recipient": {"to": ["Jörg <jörg@bücher.example>"]},
    "copy": {"to": ["ann@example.com"], "cc": ["jörg@example.com"]},
    "hidden copy": {"to": ["ann@example.com"], "bcc": ["jörg@example.com"]},
    "sender": {"to": ["ann@example.com"], "from_email": "jörg@example.com"},
    "answers": {"to": ["ann@example.com"], "reply_to": ["jörg@example.com"]},
}


@pytest.mark.parametrize("fields", INTERNATIONAL.values(), ids=INTERNATIONAL.keys())
def test_an_international_address_needs_smtputf8(fields: dict[str, list[str]], smtp: Sink) -> None:
    message = EmailMessage("Grüße", "Hallo", **{"from_email": "us@example.com", **fields})  # type: ignore[arg-type]

    received = sent(smtp, message)

    assert received.mail_options[-2:] == ["BODY=8BITMIME", "SMTPUTF8"]
    assert "Subject: Grüße".encode() in received.source
    assert "jörg@".encode() in received.source or "jörg@example.com" in received.recipients
    assert b"=?utf-8?" not in received.source


@pytest.mark.parametrize("fields", INTERNATIONAL.values(), ids=INTERNATIONAL.keys())
@pytest.mark.parametrize("without", [("SMTPUTF8",), ("8BITMIME",), ("8BITMIME", "SMTPUTF8")])
def test_without_smtputf8_the_message_fails_and_the_transport_does_not(
    without: tuple[str, ...], fields: dict[str, list[str]], through: Callable[[str], None]
) -> None:
    message = EmailMessage("Hello", "Hallo", **{"from_email": "us@example.com", **fields})  # type: ignore[arg-type]

    with Sink(without=without) as sink:
        through(sink.url)
        outcome = send(message)

        assert outcome == PermanentRefusal(
            "",
            "an address has non-ASCII characters before its @, and the server does not announce SMTPUTF8 (RFC 6531)",
        )
        assert sink.received == []
        assert isinstance(send(text()), Accepted)


def test_a_domain_in_any_script_is_one_recipient_in_one_spelling(smtp: Sink) -> None:
    smtp.script.to["jörg@xn--bcher-kva.example"] = "550 5.1.1 no such user"

    outcome = send(EmailMessage("H", "x", "us@example.com", ["jörg@Bücher.example", "ann@example.com"]))

    assert isinstance(outcome, Accepted)
    assert outcome.recipients == ("ann@example.com",)
    assert list(outcome.refused) == [addresses.as_transmitted("Jörg <jörg@Bücher.example>")]


@pytest.mark.django_db
def test_the_outbox_delivers_to_an_international_address(make_user: Callable[..., User], smtp: Sink) -> None:
    user = make_user(name="Jörg")
    User.objects.update(email="jörg@example.com")  # refused by our sign-up; models of other projects may allow it
    user.refresh_from_db()

    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT
    [received] = smtp.received
    assert received.recipients == ["jörg@example.com"]
    assert "To: Jörg <jörg@example.com>".encode() in received.source


@pytest.mark.django_db
def test_an_unknown_international_address_is_suppressed(make_user: Callable[..., User], smtp: Sink) -> None:
    user = make_user("ann@example.com")
    smtp.script.to["jörg@xn--bcher-kva.example"] = "550 5.1.1 no such user"

    first, _ = (deliver(outbox.enqueue(Shared(user, copies=["jörg@bücher.example"]))) for _ in range(2))

    assert first.answers == {"ann@example.com": "accepted", "jörg@xn--bcher-kva.example": "refused"}
    assert [received.recipients for received in smtp.received] == [["ann@example.com"], ["ann@example.com"]]


@pytest.mark.django_db
def test_a_server_without_smtputf8_is_not_paused(make_user: Callable[..., User], plain_server: Sink) -> None:
    make_user("jorg@example.com")
    User.objects.update(email="jörg@example.com")
    for user in (User.objects.get(), make_user("ann@example.com")):
        deliver(outbox.enqueue(Plain(user)))

    assert list(Message.objects.order_by("pk").values_list("state", flat=True)) == [State.FAILED, State.SENT]
    assert "SMTPUTF8" in Message.objects.earliest("pk").reason


def test_a_server_without_starttls_is_misconfigured(sink: Sink, through: Callable[[str], None]) -> None:
    through(f"{sink.url}/?tls=1")

    outcome = send(text())

    assert isinstance(outcome, TransportDown)
    assert outcome.misconfigured


def test_send_mail_encodes_alike(plain_server: Sink) -> None:
    mail.send_mail("Grüße", "Grüße", "us@example.com", ["ann@example.com"], using="transport")

    [received] = plain_server.received
    assert received.source.isascii()
    assert received.part("plain").strip() == "Grüße"


@given(body=st.text(), eight_bit=st.booleans())
def test_any_text_arrives_unchanged(body: str, *, eight_bit: bool) -> None:
    source = encoding.octets(encoding.build(text(body), eight_bit=eight_bit))

    assert max(map(len, lines(source))) <= 998
    assert eight_bit or source.isascii()
    arrived = Received("", [], source).part("plain")
    assert arrived.encode().splitlines() == (body.encode().splitlines() or [b""])


@pytest.mark.parametrize(
    "name",
    [
        "Eve <eve@example.com>, Bcc: <bob@example.com>" + "y" * 60,
        'Eve, "the \\ great" ' * 20,
        "ก, <eve@example.com>" * 20,
        "Eve Example " * 20,
    ],
)
def test_a_long_name_beside_an_address_stays_a_name(name: str, server: Sink) -> None:
    """Until 3.13.1 Python drops the quotes of a folded name, so that addresses in it become recipients."""
    message = text(to=[str(Address(name.strip(), addr_spec="ann@example.com")), "cid@example.com"])

    received = sent(server, message)

    parsed = parse_email(received.source)
    assert parsed.warnings == []
    assert [(each.display_name or "", each.address) for each in parsed.to] == [
        (name.strip(), "ann@example.com"),
        ("", "cid@example.com"),
    ]


def test_a_name_too_long_for_a_line_is_refused(server: Sink) -> None:
    message = text(to=[str(Address("a, <eve@example.com>" + "y" * 1000, addr_spec="ann@example.com"))])

    outcome = send(message)

    assert isinstance(outcome, PermanentRefusal)
    assert "more than 998 octets without a space" in outcome.text
    assert server.received == []
