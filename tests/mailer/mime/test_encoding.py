"""Names and addresses that other programs could read as header fields or as more recipients."""

import time
from email.utils import getaddresses

import pytest
from django.core.mail import EmailMessage, send_mail

from accounts.models import User
from mailer import outbox
from mailer.attachments import Attachment, attach
from mailer.mime import encoding, serializer
from mailer.models import Message, State
from mailer.outcomes import Unsendable
from tests.mailer.kinds import Plain
from tests.mailer.worker import deliver
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db

ANN = "ann@example.com"
AS_A_LINE_BREAK, AS_ADDRESSES = "=?utf-8?q?=0A?=", "=?utf-8?q?=2C_evil=40x=2Ecom=2C?="


@pytest.mark.parametrize("name", [AS_A_LINE_BREAK, AS_ADDRESSES, "=?utf-8?q?=00?=", "=?utf-8?b?Cg==?= x"])
def test_an_encoded_word_in_a_name_adds_no_address(name: str, user: User, smtp: Sink) -> None:
    User.objects.update(name=name)

    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT

    [received] = smtp.received
    to = next(line for line in received.source.split(b"\r\n") if line.startswith(b"To: "))
    assert [address for _, address in getaddresses([to.decode()[4:]])] == [ANN]


def test_an_encoded_word_in_a_name_of_send_mail_adds_no_address(smtp: Sink) -> None:
    send_mail("S", "text", None, [f"{AS_ADDRESSES} <{ANN}>"])

    assert deliver(Message.objects.get()).state == State.SENT
    [received] = smtp.received
    assert received.recipients == [ANN]
    assert [address for _, address in getaddresses([received.parsed["To"]])] == [ANN]
    assert [address.addr_spec for address in received.parsed["To"].addresses] == [ANN]


@pytest.mark.parametrize("name", ["=?utf-8?q?=0D=0AX-Evil:1?=", "=?utf-8?q?=0D=0A=0D=0Ax?="])
def test_a_file_name_adds_no_header_field(name: str) -> None:
    ours, djangos = (EmailMessage("S", "text", None, [ANN]) for _ in range(2))
    attach(ours, [Attachment(name, b"x")])
    djangos.attach(name, b"x", "application/pdf")

    assert b"\r\nX-Evil" not in encoding.octets(encoding.build(ours, eight_bit=True))
    with pytest.raises(Unsendable, match="a header field contains a line break or a NUL"):
        encoding.octets(encoding.build(djangos, eight_bit=True))


def test_a_parameter_that_python_cannot_fold_is_dropped() -> None:
    message = EmailMessage("S", "text", None, [ANN])
    attach(message, [Attachment("a.txt", b"x", content_type="text/plain; " + "x" * 80 + "=1")])

    assert b"application/octet-stream" in encoding.octets(encoding.build(message, eight_bit=True))


@pytest.mark.parametrize("entry", ["(" * 900 + " <a@example.com>", "a " * 20_000 + "<a@example.com>"])
@pytest.mark.parametrize("field", ["to", "reply_to"])
def test_an_address_that_would_block_a_parser_is_refused_at_once(entry: str, field: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"Invalid address .*: more than 998 characters, or too many brackets"):
        serializer.dump(EmailMessage("S", "text", None, [entry if field == "to" else ANN], reply_to=[entry]))
    assert time.process_time() - began < 1
