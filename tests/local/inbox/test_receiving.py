"""Mail from a real SMTP client."""

import smtplib
from email.message import EmailMessage

import pytest

from tests.local.inbox.running_inbox import RunningInbox


def test_a_message_is_stored_byte_for_byte(inbox: RunningInbox) -> None:
    source = b"Subject: exact\r\nX-Odd:   two  spaces \r\n\r\n.dots\r\n..more\r\n gr\xc3\xbc\xc3\x9fe \xff\r\n"
    assert inbox.ask(f"/messages/{inbox.send(source)}/source/").body == source


def test_the_envelope_is_stored(inbox: RunningInbox) -> None:
    message_id = inbox.send(b"To: team@example.com\r\n\r\nx\r\n", "bounce@example.com", ["a@example.com", "bcc@x.org"])
    message = inbox.ask(f"/api/messages/{message_id}").json
    assert message["to"] == ["a@example.com", "bcc@x.org"]
    assert message["envelope_from"] == "bounce@example.com"
    assert ["To", "team@example.com"] in message["headers"]


def test_a_message_of_smtplib_can_be_read(inbox: RunningInbox) -> None:
    message = EmailMessage()
    message["From"] = "Grüße <shop@example.com>"
    message["To"] = "ann@example.com"
    message["Subject"] = "Bestätigung ✓"
    message["Message-ID"] = "<one@example.com>"
    message.set_content("Text ü")
    message.add_alternative("<p>HTML ü</p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Rechnung ä.pdf")
    with inbox.smtp() as smtp:
        smtp.send_message(message)
    kept = inbox.ask(f"/api/messages/{inbox.found('Bestätigung ✓')[0]['id']}").json
    assert (kept["subject"], kept["from"]) == ("Bestätigung ✓", "Grüße <shop@example.com>")
    assert (kept["text"].strip(), kept["html"].strip()) == ("Text ü", "<p>HTML ü</p>")
    assert kept["message_id"] == "<one@example.com>"
    assert [file["filename"] for file in kept["attachments"]] == ["Rechnung ä.pdf"]


def test_addresses_in_utf8_are_accepted(inbox: RunningInbox) -> None:
    with inbox.smtp() as smtp:
        smtp.sendmail("jürgen@exämple.com", ["ñandú@example.com"], b"Subject: utf8 addresses\r\n\r\nx", ["SMTPUTF8"])
    assert inbox.found("utf8 addresses")[0]["to"] == ["ñandú@example.com"]


@pytest.mark.parametrize(
    "recipient", ["no-domain", "a@localhost", "a@[127.0.0.1]", '"a b"@example.com', "x" * 300 + "@a.b"]
)
def test_any_recipient_is_accepted(inbox: RunningInbox, recipient: str) -> None:
    assert inbox.ask(f"/api/messages/{inbox.send(b'', recipients=[recipient])}").json["to"] == [recipient]


def test_a_bounce_has_no_sender(inbox: RunningInbox) -> None:
    assert inbox.ask(f"/api/messages/{inbox.send(b'', sender='<>')}").json["envelope_from"] == ""


@pytest.mark.parametrize("mechanism", ["auth_plain", "auth_login"])
def test_any_credentials_are_accepted(inbox: RunningInbox, mechanism: str) -> None:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        smtp.user, smtp.password = "any-user", "any-password"
        status, _ = smtp.auth(mechanism.removeprefix("auth_").upper(), getattr(smtp, mechanism))
        assert status == 235


def test_a_message_that_is_too_big_is_refused_with_552_before_and_after_data(inbox: RunningInbox) -> None:
    with inbox.smtp() as smtp:
        smtp.ehlo()
        assert smtp.mail("a@example.com", ["SIZE=30000000"])[0] == 552
        smtp.mail("a@example.com")
        smtp.rcpt("too.big@example.com")
        assert smtp.data(b"x" * 26 * 1024 * 1024)[0] == 552
        assert smtp.noop()[0] == 250
    assert inbox.found("too.big@example.com") == []


def test_a_connection_that_breaks_during_data_stores_nothing(inbox: RunningInbox) -> None:
    smtp = inbox.smtp()
    smtp.ehlo()
    smtp.mail("a@example.com")
    smtp.rcpt("half@example.com")
    smtp.docmd("DATA")
    smtp.send(b"Subject: half a message\r\n")
    smtp.close()
    inbox.send(b"Subject: the next one\r\n\r\n")
    assert inbox.found("half@example.com") == []


def test_the_log_has_one_line_per_message_and_no_address(inbox: RunningInbox) -> None:
    message_id = inbox.send(b"Subject: for the log\r\n\r\n", "secret.sender@x.org", ["secret.reader@x.org", "b@x.org"])
    with inbox.smtp() as smtp, pytest.raises(smtplib.SMTPException):
        smtp.sendmail("secret.sender@x.org", ["secret reader@@x.org>"], b"")
    inbox.ask("/?q=secret.reader@x.org")
    inbox.ask("/secret.reader@x.org")
    lines = [line for line in inbox.log.splitlines() if message_id in line]
    assert len(lines) == 1
    assert "received 24 bytes for 2 recipient(s)" in lines[0]
    assert "secret" not in inbox.log
    assert "Traceback" not in inbox.log
