"""Ways in which mail was lost, doubled, or sent to somebody else once, and what must not happen again."""

import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import getaddresses
from typing import Any, Self

import pytest
import structlog
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage, send_mail
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from config.logging import Masking
from mailer import outbox, routes
from mailer.attachments import Attachment, attach
from mailer.checks.kinds import check_kind
from mailer.checks.settings import check_settings
from mailer.delivery import circuit, pipeline, sweep
from mailer.email import KINDS
from mailer.mime import encoding, serializer
from mailer.models import Message, State, Suppression, TransportState
from mailer.outcomes import Unsendable
from mailer.recipients import suppression
from mailer.signals import message_settled
from mailer.text import mask
from mailer.transports import dkim, transmit
from tests.mailer.kinds import Fleeting, Plain, Shared
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)

ANN, BOB = "ann@example.com", "bob@example.com"
AS_A_LINE_BREAK, AS_ADDRESSES = "=?utf-8?q?=0A?=", "=?utf-8?q?=2C_evil=40x=2Ecom=2C?="


def deliver(message: Message) -> Message:
    Message.objects.filter(pk=message.pk).update(due_at=timezone.now())
    pipeline.deliver(message.pk)
    message.refresh_from_db()
    return message


@pytest.fixture
def receivers() -> Iterator[list[Any]]:
    """Receivers of message_settled for the time of a test."""
    connected: list[Any] = []
    yield connected
    for receiver in connected:
        message_settled.disconnect(receiver)


@pytest.mark.parametrize("name", [AS_A_LINE_BREAK, AS_ADDRESSES, "=?utf-8?q?=00?=", "=?utf-8?b?Cg==?= x"])
def test_no_name_costs_a_mail_or_adds_an_address(name: str, user: User, smtp: Sink) -> None:
    User.objects.update(name=name)

    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT

    [received] = smtp.received
    to = next(line for line in received.source.split(b"\r\n") if line.startswith(b"To: "))
    assert [address for _, address in getaddresses([to.decode()[4:]])] == [ANN]


def test_addresses_in_a_name_that_django_was_given_are_refused(smtp: Sink) -> None:
    send_mail("S", "text", None, [f"{AS_ADDRESSES} <{ANN}>"])

    message = deliver(Message.objects.get())

    assert (message.state, smtp.received) == (State.FAILED, [])
    assert "would be read as another address" in message.reason


@pytest.mark.parametrize("name", ["=?utf-8?q?=0D=0AX-Evil:1?=", "=?utf-8?q?=0D=0A=0D=0Ax?="])
def test_the_name_of_a_file_adds_no_header_field(name: str) -> None:
    ours, djangos = (EmailMessage("S", "text", None, [ANN]) for _ in range(2))
    attach(ours, [Attachment(name, b"x")])
    djangos.attach(name, b"x", "application/pdf")

    assert b"\r\nX-Evil" not in encoding.octets(encoding.build(ours, eight_bit=True))
    with pytest.raises(Unsendable, match="a header field holds a line break or a NUL"):
        encoding.octets(encoding.build(djangos, eight_bit=True))


def test_a_parameter_that_python_cannot_fold_hangs_nobody() -> None:
    message = EmailMessage("S", "text", None, [ANN])
    attach(message, [Attachment("a.txt", b"x", content_type="text/plain; " + "x" * 80 + "=1")])

    assert b"application/octet-stream" in encoding.octets(encoding.build(message, eight_bit=True))


@pytest.mark.parametrize("entry", ["(" * 900 + " <a@example.com>", "a " * 20_000 + "<a@example.com>"])
@pytest.mark.parametrize("field", ["to", "reply_to"])
def test_an_address_that_no_parser_survives_is_refused_at_once(entry: str, field: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"Invalid address .*: more than 998 characters, or too many brackets"):
        serializer.dump(EmailMessage("S", "text", None, [entry if field == "to" else ANN], reply_to=[entry]))
    assert time.monotonic() - began < 1


def losing_the_connection(message: Message, **_: Any) -> None:
    connection.close()


def test_a_receiver_that_loses_the_connection_costs_no_second_mail(
    user: User, smtp: Sink, receivers: list[Any], settings: Settings
) -> None:
    settings.POSTCOMMIT = {"CLAIM_LEASE": "2", "SMTP_TIMEOUT": "1"}
    message_settled.connect(losing_the_connection)
    receivers.append(losing_the_connection)

    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT
    assert deliver(outbox.enqueue(Fleeting(user))).state == State.EXPIRED

    assert len(smtp.received) == 1


def test_a_receiver_that_takes_its_time_holds_up_no_sweep(
    user: User, smtp: Sink, receivers: list[Any], settings: Settings
) -> None:
    settings.POSTCOMMIT = {"CLAIM_LEASE": "2", "SMTP_TIMEOUT": "1"}
    entered, go = threading.Event(), threading.Event()

    def slow(message: Message, **_: Any) -> None:
        entered.set()
        go.wait(20)

    message_settled.connect(slow)
    receivers.append(slow)
    message = outbox.enqueue(Plain(user))

    def work() -> None:
        try:
            pipeline.deliver(message.pk)
        finally:
            transmit.close(routes.PRIMARY)
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert entered.wait(10)
        time.sleep(2.2)
        began = time.monotonic()
        assert sweep.settle_abandoned() == 0
        assert time.monotonic() - began < 2
    finally:
        go.set()
        worker.join()
    message.refresh_from_db()
    assert message.state == State.SENT


class Own(EmailMessage):
    """A message of a class that makes its MIME itself."""

    def message(self, **options: Any) -> Any:
        made = super().message(**options)
        made["X-Own"] = "1"
        return made


@pytest.mark.parametrize("without", [(), ("8BITMIME", "SMTPUTF8")])
@pytest.mark.parametrize("with_file", [False, True])
def test_mime_of_somebody_elses_making_stays_readable_at_any_server(
    without: tuple[str, ...], with_file: bool, through: Any
) -> None:
    message = Own("S", "กาแฟ a=20b", None, [ANN])
    if with_file:
        message.attach("a.txt", "กาแฟ a=20b", "text/plain")
    with Sink(without=without) as sink:
        through(sink.url)
        message.send()
        assert deliver(Message.objects.get()).state == State.SENT
        transmit.close(routes.PRIMARY)

    [received] = sink.received
    texts = [str(part.get_content()).strip() for part in received.parsed.walk() if not part.is_multipart()]
    assert set(texts) == {"กาแฟ a=20b"}
    assert not without or received.source.isascii()
    assert received.parsed["X-Own"] == "1"


def test_a_field_that_only_newer_code_knows_is_left_to_it(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(arguments={"account": user.pk, "sent_by": "x", "new_field": 1})

    assert deliver(message).state == State.QUEUED
    assert smtp.received == []


def test_who_is_suppressed_in_the_last_moment_does_not_take_the_mail_from_the_others(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = outbox.enqueue(Shared(user, copies=[BOB]))
    prepare = pipeline.prepare

    def slowly(row: Message) -> Any:
        ready = prepare(row)
        suppression.suppress(ANN, "550 5.1.1 unknown", message)
        return ready

    monkeypatch.setattr(pipeline, "prepare", slowly)
    assert deliver(message).state == State.QUEUED
    monkeypatch.undo()

    assert deliver(message).state == State.SENT
    assert [received.recipients for received in smtp.received] == [[BOB]]


@pytest.mark.parametrize(
    ("suppressed", "copies", "reached"),
    [
        (ANN, ["Ann@example.com", BOB], [BOB]),
        (BOB, ["Bob@example.com", BOB], [ANN]),
        ("bob@xn--bcher-kva.example", ["bob@bücher.example"], [ANN]),
        ("bob@bücher.example", ["bob@bücher.example"], [ANN]),
    ],
)
def test_one_address_is_one_however_it_is_spelt(
    suppressed: str, copies: list[str], reached: list[str], user: User, smtp: Sink
) -> None:
    Suppression.objects.create(address=suppressed, reason="gone")

    assert deliver(outbox.enqueue(Shared(user, copies=copies))).state == State.SENT
    assert [received.recipients for received in smtp.received] == [reached]


def one_sweep(rows: list[Message]) -> list[Message]:
    """What a sweep hands over, delivered."""
    before = {row.pk: row.publish_at for row in Message.objects.waiting()}
    assert sweep.publish_overdue() == 1
    published = [
        row for row in rows if row.pk in before and Message.objects.get(pk=row.pk).publish_at != before[row.pk]
    ]
    for row in published:
        pipeline.deliver(row.pk)
        row.refresh_from_db()
    return published


@pytest.mark.usefixtures("broker")
def test_messages_that_will_not_be_sent_do_not_use_up_the_probes(user: User, smtp: Sink, make_user: Any) -> None:
    dead = make_user("dead@example.com")
    Suppression.objects.create(address=dead.email, reason="gone")
    rows = [outbox.enqueue(Plain(dead)), outbox.enqueue(Fleeting(user)), outbox.enqueue(Plain(user))]
    for number, row in enumerate(rows):
        Message.objects.filter(pk=row.pk).update(publish_at=timezone.now() - timedelta(seconds=10 - number))
    TransportState.objects.create(alias="transport", failures=3, paused_until=timezone.now() - timedelta(seconds=1))

    published = [row for _ in range(2) for row in one_sweep(rows)]

    assert published == [rows[0], rows[2]]
    assert rows[0].state == State.SUPPRESSED
    assert rows[2].state == State.SENT
    assert not circuit.pauses()


def test_a_transport_that_keeps_errors_to_itself_is_refused(smtp: Sink, settings: Settings) -> None:
    settings.MAILERS["transport"]["OPTIONS"]["fail_silently"] = True

    assert [found.id for found in check_settings(None)] == ["mailer.E015"]


def test_what_a_backend_did_not_send_is_not_sent(user: User, smtp: Sink, settings: Settings) -> None:
    settings.MAILERS["transport"]["OPTIONS"]["fail_silently"] = True
    smtp.script.always["MAIL"] = "451 4.3.0 later"

    message = deliver(outbox.enqueue(Plain(user)))

    assert message.state == State.FAILED
    assert "did not send it" in message.reason


@pytest.mark.usefixtures("broker")
def test_a_worker_that_is_quicker_than_the_brokers_answer_stops_no_sweep(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    Message.objects.update(publish_at=timezone.now() - timedelta(seconds=1))
    smtp.script.always["RCPT"] = "451 4.3.0 later"

    def publish(message: Message) -> bool:
        if message.pk == first.pk:
            pipeline.deliver(message.pk)
        return False

    monkeypatch.setattr(sweep, "publish", publish)
    sweep.publish_overdue()

    second.refresh_from_db()
    assert second.handovers == 0


def test_a_deadline_counts_without_a_transport_too(user: User) -> None:
    message = outbox.enqueue(Fleeting(user))
    Message.objects.update(transport="gone")

    assert deliver(message).state == State.EXPIRED


@pytest.mark.parametrize(
    "text",
    [
        "Not Found: /accounts/password-reset/MQ/difo2b-a6cdf9a7a6cdf9a7a6cdf9a7a6cdf9a7/>",
        "Not Found: /unsubscribe//TG7MIJ_F1i_cd5T7lQYmrl7mKnSxK6BlSXY1la7/",
        "Not Found: /UNSUBSCRIBE/TG7MIJ_F1i_cd5T7lQYmrl7mKnSxK6BlSXY1la7/",
    ],
)
def test_no_link_that_still_works_stands_in_a_log(text: str) -> None:
    assert "difo2b" not in mask(text)
    assert "TG7MIJ" not in mask(text)


@pytest.mark.parametrize(
    "value", ["-----BEGIN PRIVATE KEY-----\nMC4CAQ", "bm90IGEga2V5IGF0IGFsbCBub3QgYSBrZXkgYXQgYWxsIQ=="]
)
def test_a_key_in_the_place_of_its_path_is_not_quoted(value: str, settings: Settings) -> None:
    settings.POSTCOMMIT = {"DKIM_KEYS": (f"s1:{value}",)}

    with pytest.raises(ImproperlyConfigured, match="POSTCOMMIT_DKIM_KEYS must be selector:path") as caught:
        dkim.signer()
    assert value[:8] not in str(caught.value)


def test_half_a_character_costs_neither_the_end_of_a_message_nor_its_line_in_the_log(
    user: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mailer.delivery")  # a parallel run of pytest cannot hand such a line over

    class Odd(Plain):
        kind = "tests.OddFile"

        def context(self) -> dict[str, Any]:
            raise LookupError("no file caf\udce9.pdf")  # as os.listdir() names it

    try:
        message = deliver(outbox.enqueue(Odd(user)))
    finally:
        del KINDS["tests.OddFile"]

    assert message.state == State.FAILED
    assert "no file caf?.pdf" in message.reason
    line = Masking(structlog.processors.JSONRenderer(ensure_ascii=False))
    rendered = line(None, "", {"event": "caf\udce9 of ann@bücher.example"})
    assert rendered.encode() == b'{"event": "caf\\udce9 of a***@b\xc3\xbccher.example"}'


def test_two_messages_that_meet_the_same_unknown_address_suppress_it_once(user: User) -> None:
    message = outbox.enqueue(Plain(user))

    suppression.suppress("Ann@Example.com", "550 5.1.1 unknown", message)
    suppression.suppress("ann@example.com", "550 5.1.1 unknown", message)

    assert list(Suppression.objects.values_list("address", flat=True)) == [ANN]


@pytest.mark.parametrize("sender", ["Shop", "Shop, Inc <shop@example.com>", "a@example.com, b@example.com"])
def test_a_sender_that_is_no_address_is_found_by_the_checks(sender: str) -> None:
    class Odd(Plain):
        kind = "tests.OddSender"

        def sender(self) -> str:
            return sender

        @classmethod
        def sample(cls) -> Self:
            return cls(User(pk=1, email=ANN))

    try:
        [found, *_] = check_kind(Odd)
    finally:
        del KINDS["tests.OddSender"]
    assert (found.id, found.msg) == ("mailer.E009", f"sender() returns {sender!r}, which is not one address.")


@pytest.mark.parametrize("sender", ["Shop", "", "Shop, Inc <shop@example.com>"])
def test_a_default_sender_that_is_no_address_is_an_error(sender: str, settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = sender

    assert [found.id for found in check_settings(None)] == ["mailer.E011"]
