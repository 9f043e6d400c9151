"""Malformed mail neither breaks a page nor slows it down."""

import time
from uuid import uuid4

import pytest

from local.inbox.markup import framed, linked
from local.inbox.reading import read
from local.inbox.views import MAX_SHOWN
from tests.local.inbox.running_inbox import RunningInbox

LINE = b"x" * 76 + b"\r\n"


def nested(depth: int) -> bytes:
    """A multipart in a multipart in a multipart..."""
    opened = (b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(depth))
    return b"".join(opened) + b"\r\nthe innermost text\r\n"


def attached(disposition: bytes) -> bytes:
    return b"Content-Disposition: attachment; " + disposition + b"\r\n\r\nx\r\n"


def text_in(charset: bytes, body: bytes) -> bytes:
    return b"Content-Type: text/plain; charset=" + charset + b"\r\n\r\n" + body + b"\r\n"


HOSTILE = {
    "nothing at all": b"",
    "no headers": b"\r\nbody\r\n",
    "no body": b"Subject: x\r\n",
    "every byte": bytes(byte for byte in range(256) if byte not in b"\r\n") + b"\r\n",
    "raw 8-bit headers": b"Subject: gr\xfc\xdfe\r\nFrom: \xff\xfe@x\r\n\r\nx\r\n",
    "a script in the subject": b"Subject: <script>alert(1)</script>\r\n\r\nx\r\n",
    "broken encoded words": b"Subject: =?utf-8?b?!!!?= =?x?q?a?= =?utf-8?q?a=0D=0Ab?=\r\n\r\nx\r\n",
    "bad dates": b"Date: 99 Foo 99999 99:99:99 +99999999\r\nResent-Date: yesterday\r\n\r\nx\r\n",
    "bad addresses": b'From: @\r\nTo: ,,,\r\nCc: "\r\nReply-To: a@[\r\nSender: group:;\r\n\r\nx\r\n',
    "bad Message-ID": b"Message-ID: <@<\r\n\r\nx\r\n",
    "bad MIME headers": b"MIME-Version: banana\r\nContent-Type: ;=;\r\nContent-Transfer-Encoding: (((\r\n\r\nx\r\n",
    "an unknown charset": text_in(b"klingon", b"\xff"),
    "a charset with a NUL": text_in(b'"a\0b"', b"x"),
    "a codec that is not a charset": text_in(b"hex", b"zz"),
    "a charset that makes surrogates": text_in(b"utf-7", b"+2AA-"),
    "broken base64": b"Content-Transfer-Encoding: base64\r\n\r\n!!!\xff\r\n",
    "broken uuencode": b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin\r\nzzz\r\n",
    "multipart without a boundary": b"Content-Type: multipart/mixed\r\n\r\nx\r\n",
    "multipart that never begins": b"Content-Type: multipart/mixed; boundary=b\r\n\r\nx\r\n",
    "a path for a file name": attached(b'filename="../../etc/passwd"'),
    "a line break in a file name": attached(b"filename*=utf-8''a%0D%0AX-Evil:%201"),
    "a file name in an unknown charset": attached(b"filename*=klingon''%ff"),
    "contradicting parameters": attached(b"filename*0*=utf-8''a; filename*=b; filename*1=c"),
    "a raw 8-bit file name": attached(b"filename=\xff\xfe.exe"),
    "a content type out of its quotes": b'Content-Type: image/svg+xml"><script>\r\n' + attached(b"filename=a"),
    "an attached message": b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nx\r\n",
    "600 nested messages": b"Content-Type: message/rfc822\r\n\r\n" * 600 + b"x\r\n",
    "a delivery report": b"Content-Type: message/delivery-status\r\n\r\nA: b\r\n\r\nC: d\r\n",
    "nested 50 deep": nested(50),
    "nested 3000 deep": nested(3000),
    "10 MB of text": b"Subject: big\r\n\r\n" + LINE * 135_000,
    "a line of 5 MB": b"\r\n" + b"y" * 5_000_000 + b"\r\n",
    "a header of 1 MB": b"Subject: " + b"a " * 500_000 + b"\r\n\r\nx\r\n",
    "HTML of nothing but tags": b"Content-Type: text/html\r\n\r\n" + b"<style <!-- " * 50_000 + b"\r\n",
}

MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
# Without limits each of them takes seconds to minutes.
SLOW = {
    "100,000 recipients": b"To: " + b"a@example.com, " * 100_000 + b"\r\n\r\nx\r\n",
    "50,000 parameters": b"Content-Type: text/plain" + b"; a=b" * 50_000 + b"\r\n\r\nx\r\n",
    "500,000 parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\na\r\n" * 500_000,
    "1,000,000 lines nested 300 deep": nested(300) + b"\r\n" * 1_000_000,
    "100,000 brackets": b"From: " + b"(" * 100_000 + b"\r\nContent-Type: " + b"(" * 100_000 + b"\r\n\r\nx\r\n",
    "400 lists of empty groups": (b"To: " + b"a:;," * 950 + b"\r\n") * 400 + b"\r\nx\r\n",
    "400 lists of commas": (b"To: " + b"," * 3900 + b"\r\n") * 400 + b"\r\nx\r\n",
    "400 lists of routes": (b"Cc: <" + b"@a," * 1300 + b"\r\n") * 400 + b"\r\nx\r\n",
    "400 Message-IDs": (b"Message-ID: <" + b"a." * 1900 + b"\r\n") * 400 + b"\r\nx\r\n",
    "500 parts with long headers": MIXED + (b"--b\r\nContent-Type: a/b" + b"; a=b" * 780 + b"\r\n\r\na\r\n") * 500,
    "500 parts with split names": MIXED
    + (b"--b\r\nContent-Disposition: a" + b"".join(b"; filename*%d*=a" % n for n in range(250)) + b"\r\n\r\na\r\n")
    * 500,
    "9,000 parts": MIXED + (b"--b\r\nContent-Type: text/plain" + b"; a=b" * 50 + b"\r\n\r\na\r\n") * 9_000,
    "300 containers with long headers": (
        b"Content-Type: multipart/mixed" + b"; a=b" * 700 + b"; boundary=b\r\n\r\n--b\r\n"
    )
    * 300,
    "a report of 500,000 blocks": b"Content-Type: message/delivery-status\r\n\r\n" + b"A: b\r\n\r\n" * 500_000,
    "a message of 500,000 headers": b"Content-Type: message/rfc822\r\n\r\n" + b"A: b\r\n" * 500_000,
    "a slow codec in another spelling": text_in(b'" punycode"', b"9" * 300_000),
    "12,000,000 empty lines": b"\r\n" * 12_000_000,
    "3,500,000 lines of uuencode": b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin 666 a\r\n"
    + b"#86)C\r\n" * 3_500_000,
    "4,000,000 references to pictures": b"Content-Type: text/html\r\n\r\n" + b'"cid:a' * 4_000_000,
    "500 pictures in 20 MB of HTML": MIXED
    + b"--b\r\nContent-Type: text/html\r\n\r\n"
    + b"x" * 20_000_000
    + b"".join(b"\r\n--b\r\nContent-Type: image/gif\r\nContent-ID: <%dzz>\r\n\r\na" % n for n in range(499)),
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_every_page_of_a_malformed_mail_opens(inbox: RunningInbox, source: bytes) -> None:
    reader = f"{uuid4()}@example.com"
    message_id = inbox.send(source, recipients=[reader])
    page = f"/messages/{message_id}/"
    assert inbox.ask(f"{page}source/").body == (source or b"\r\n")
    message = inbox.ask(f"/api/messages/{message_id}").json
    for tab in ("html", "text", "headers", "source", "attachments"):
        assert inbox.ask(f"{page}?show={tab}").status == 200
    assert inbox.ask(f"{page}html/").status == (404 if message["html"] is None else 200)
    for attachment in message["attachments"]:
        answer = inbox.ask(f"{page}parts/{attachment['number']}/")
        assert (answer.status, len(answer.body)) == (200, attachment["size"])
        assert "X-Evil" not in answer.headers
        assert not set("/\\\r\n") & set(attachment["filename"])
    assert message_id in inbox.ask(f"/?q={reader}").text


@pytest.mark.parametrize("source", SLOW.values(), ids=SLOW.keys())
def test_every_mail_is_read_and_prepared_quickly(source: bytes) -> None:
    began = time.process_time()
    reading = read(source)
    linked((reading.text or "")[:MAX_SHOWN])
    framed(reading.html or "", reading.parts, "http://127.0.0.1/parts/")
    assert time.process_time() - began < 2  # 0.6 s on an idle machine
    assert reading.headers or reading.text


def test_a_mail_that_was_cut_is_listed_and_says_so(inbox: RunningInbox) -> None:
    source = b"Subject: cut-22\r\n" + SLOW["400 lists of commas"]
    message_id = inbox.send(source)
    assert [found["id"] for found in inbox.found("cut-22")] == [message_id]
    assert "This message was cut" in inbox.ask(f"/messages/{message_id}/?show=text").text
    assert inbox.ask(f"/messages/{message_id}/source/").body == source
    assert "was cut" not in inbox.ask(f"/messages/{inbox.send(b'Subject: whole')}/").text


def test_broken_parts_do_not_hide_readable_ones() -> None:
    reading = read(
        b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/plain; charset=klingon\r\n\r\nf\xc3\xbcr dich\r\n"
        b"--b\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\nf\xfcr dich\r\n"
        b'--b\r\nContent-Disposition: attachment; filename="..\\..\\a/b.txt"\r\n\r\ncontent\r\n'
    )
    assert reading.header("SUBJECT") == "grüße"
    assert (reading.text, reading.html) == ("für dich", "für dich")
    assert [(part.filename, part.content) for part in reading.parts] == [("b.txt", b"content")]


def test_parts_that_are_nested_too_deep_are_shown_as_text() -> None:
    reading = read(b"Subject: deep\r\n" + nested(1000))
    assert reading.header("Subject") == "deep"
    assert "the innermost text" in (reading.text or "")
