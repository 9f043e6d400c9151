"""Attachments as a real mail server receives them, and the sender and header fields that a kind may set."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from email.message import EmailMessage
from pathlib import Path
from typing import IO, Any, cast

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, Storage, storages
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.attachments import CHUNK, Attachment, StoredFile
from mailer.models import Message, State
from tests.mailer.kinds import Plain
from tests.mailer.worker import deliver, deliver_now
from tests.smtp_sink import Received, Sink

pytestmark = pytest.mark.django_db

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
CSV = "name,sum\r\nAnn,1\nกานดา,2\n.\r\n".encode("utf-8-sig")
ICS = b"BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
EML = b"From: a@example.com\r\nSubject: inside\r\n\r\nFrom here on.\r\n.\r\n"

FILES: list[Attachment] = []
"""The attachments of the next mail."""


class WithFiles(Plain):
    def attachments(self) -> Iterable[Attachment]:
        return FILES


class WithOwnHeaders(Plain):
    """Sets sender, reply-to and more."""

    from_: str = "Ann's shop <shop@example.com>"
    replies: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def sender(self) -> str:
        return self.from_

    def reply_to(self) -> list[str]:
        return self.replies

    def headers(self) -> Mapping[str, str]:
        return self.more


class RemoteStorage(FileSystemStorage):
    """A storage on another machine: it can be away, raises its library's own exceptions, and counts the bytes read."""

    is_away: type[Exception] | None = None
    fails_after: int | None = None
    read = 0

    def _open(self, name: str, mode: str = "rb") -> Any:
        if RemoteStorage.is_away:
            raise RemoteStorage.is_away("the bucket of ann@example.com does not answer")
        return CountingFile(super()._open(name, mode))  # type: ignore[misc]


class CountingFile(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if RemoteStorage.fails_after is not None and RemoteStorage.read >= RemoteStorage.fails_after:
            raise ConnectionResetError("reset by peer")
        chunk: bytes = self.file.read(size)
        RemoteStorage.read += len(chunk)
        return chunk

    def close(self) -> None:
        self.file.close()
        super().close()


class LibraryError(Exception):
    """Not an OSError, like the errors of botocore and google-cloud-storage."""


@pytest.fixture
def storage(settings: Settings, tmp_path: Path) -> Iterator[Storage]:
    options = {"location": str(tmp_path)}
    backend = {"BACKEND": "tests.mailer.test_attachments.RemoteStorage", "OPTIONS": options}
    settings.STORAGES = settings.STORAGES | {"default": backend, "papers": backend}
    RemoteStorage.is_away, RemoteStorage.fails_after, RemoteStorage.read = None, None, 0
    yield storages["papers"]
    RemoteStorage.is_away = RemoteStorage.fails_after = None


@pytest.fixture
def send(user: User, smtp: Sink) -> Iterator[Callable[..., Message]]:
    """Send a mail with these files."""

    def send(*files: Attachment) -> Message:
        FILES[:] = files
        return deliver(outbox.enqueue(WithFiles(user)))

    yield send
    FILES.clear()


def parts(received: Received) -> list[EmailMessage]:
    """Return the files of a mail."""
    return cast(list[EmailMessage], list(received.parsed.iter_attachments()))


def content(part: EmailMessage) -> bytes:
    return cast(bytes, part.get_payload(decode=True))


def test_files_arrive_unchanged_and_in_order(send: Callable[..., Message], smtp: Sink, storage: Storage) -> None:
    storage.save("invoices/7.pdf", ContentFile(b"%PDF-1.7\r\n\0\xff" * 1000))
    given = [
        Attachment("sums.csv", CSV),
        Attachment("invite.ics", ICS, "text/calendar; method=REQUEST; charset=utf-8"),
        Attachment("invoice.pdf", StoredFile("invoices/7.pdf", "papers")),
        Attachment("forwarded.eml", EML),
        Attachment("unknown.no-such-type", bytes(range(256))),
        Attachment("empty.txt", b""),
    ]

    assert send(*given).state == State.SENT

    arrived = parts(smtp.received[0])
    assert [part.get_filename() for part in arrived] == [attachment.name for attachment in given]
    assert [content(part) for part in arrived] == [
        *(CSV, ICS, b"%PDF-1.7\r\n\0\xff" * 1000, EML, bytes(range(256)), b"")
    ]
    assert [part.get_content_type() for part in arrived] == [
        *("text/csv", "text/calendar", "application/pdf"),
        *("application/octet-stream", "application/octet-stream", "text/plain"),
    ]
    assert arrived[1].get_param("method") == "REQUEST"
    assert {part.get_content_disposition() for part in arrived} == {"attachment"}
    assert smtp.received[0].part("html")


def test_two_files_may_have_the_same_name(send: Callable[..., Message], smtp: Sink) -> None:
    send(Attachment("a.txt", b"one"), Attachment("a.txt", b"two"))

    assert [content(part) for part in parts(smtp.received[0])] == [b"one", b"two"]


@pytest.mark.parametrize(
    "name", ["ใบเสร็จ.pdf", 'a "b"; c.pdf', "x" * 300 + ".pdf", "Grüße.pdf", "../../etc/passwd", "no extension"]
)
def test_any_file_name_arrives(send: Callable[..., Message], smtp: Sink, name: str) -> None:
    assert send(Attachment(name, b"x")).state == State.SENT

    assert parts(smtp.received[0])[0].get_filename() == name


@pytest.mark.parametrize("name", ["a\r\nBcc: evil@example.com", "a\nb.pdf"])
def test_a_file_name_cannot_add_a_header_field(send: Callable[..., Message], smtp: Sink, name: str) -> None:
    message = send(Attachment(name, b"x"))

    assert "evil@example.com" not in [address for received in smtp.received for address in received.recipients]
    for received in smtp.received:
        assert received.parsed["Bcc"] is None
        assert all(part["Bcc"] is None for part in received.parsed.walk())
    assert message.state in (State.SENT, State.QUEUED)


def test_a_file_with_a_content_id_is_inline(send: Callable[..., Message], smtp: Sink) -> None:
    send(Attachment("logo.png", PNG, content_id="logo"))

    [part] = [part for part in smtp.received[0].parsed.walk() if part.get_content_type() == "image/png"]
    assert (part["Content-ID"], part.get_content_disposition()) == ("<logo>", "inline")
    assert content(part) == PNG


def test_a_file_with_an_invalid_type_is_still_attached(send: Callable[..., Message], smtp: Sink) -> None:
    send(Attachment("a.bin", b"x", "nonsense"), Attachment("b.bin", b"y", "multipart/mixed"))

    assert [part.get_content_type() for part in parts(smtp.received[0])] == ["application/octet-stream"] * 2


def test_a_file_that_is_too_large_is_not_read_to_its_end(
    send: Callable[..., Message], smtp: Sink, storage: Storage, settings: Settings
) -> None:
    settings.POSTCOMMIT = settings.POSTCOMMIT | {"MAX_MESSAGE_SIZE": "1000000"}
    with Path(storage.path("huge")).open("wb") as file:
        os.truncate(file.fileno(), 20_000_000_000)  # a sparse file, which needs no space

    message = send(Attachment("huge", StoredFile("huge", "papers")))

    assert (message.state, message.attempts, smtp.received) == (State.FAILED, 0, [])
    assert message.reason == (
        "could not be built: TooLarge: with the attachment 'huge' the message is larger than 1000000 bytes "
        "(POSTCOMMIT_MAX_MESSAGE_SIZE); send a link instead"
    )
    assert RemoteStorage.read <= 1_000_000 + CHUNK


def test_files_may_have_exactly_the_largest_size(send: Callable[..., Message], settings: Settings) -> None:
    settings.POSTCOMMIT = settings.POSTCOMMIT | {"MAX_MESSAGE_SIZE": "10000"}

    assert send(Attachment("a", b"x" * 6000), Attachment("b", b"x" * 4000)).state == State.SENT


def test_files_that_are_too_large_together_fail_the_mail(send: Callable[..., Message], settings: Settings) -> None:
    settings.POSTCOMMIT = settings.POSTCOMMIT | {"MAX_MESSAGE_SIZE": "10000"}

    assert send(Attachment("a", b"x" * 6000)).state == State.SENT
    message = send(Attachment("a", b"x" * 6000), Attachment("b", b"x" * 6000))
    assert (message.state, "the attachment 'b'" in message.reason) == (State.FAILED, True)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        (StoredFile("no/such"), "FileNotFoundError: no file 'no/such' in the storage 'default'"),
        (StoredFile("", "papers"), "FileNotFoundError: no file '' in the storage 'papers'"),
        (StoredFile("x", "nowhere"), "InvalidStorageError: "),
        (StoredFile("../../etc/passwd", "papers"), "SuspiciousFileOperation: "),
    ],
)
def test_a_missing_file_is_named_in_the_reason(
    send: Callable[..., Message], smtp: Sink, storage: Storage, file: StoredFile, complaint: str
) -> None:
    message = send(Attachment("a.pdf", file))

    assert (message.state, message.attempts, smtp.received) == (State.QUEUED, 0, [])
    assert message.reason.startswith(f"could not be built: {complaint}")


@pytest.mark.parametrize("error", [ConnectionRefusedError, TimeoutError, PermissionError, LibraryError])
def test_a_storage_that_is_away_uses_up_no_attempt_and_the_mail_is_sent_later(
    send: Callable[..., Message],
    smtp: Sink,
    storage: Storage,
    error: type[Exception],
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage.save("a.pdf", ContentFile(b"%PDF"))
    RemoteStorage.is_away = error

    message = send(Attachment("a.pdf", StoredFile("a.pdf", "papers")))

    assert (message.state, message.attempts, smtp.received) == (State.QUEUED, 0, [])
    assert "not prepared; tried again" in caplog.text
    assert "ann@example.com" not in caplog.text
    RemoteStorage.is_away = None
    assert deliver_now(message).state == State.SENT
    assert message.attempts == 1


def test_a_storage_that_fails_while_it_is_read_is_tried_again(
    send: Callable[..., Message], smtp: Sink, storage: Storage
) -> None:
    storage.save("a.bin", ContentFile(os.urandom(3 * CHUNK)))
    RemoteStorage.fails_after = CHUNK

    message = send(Attachment("a.bin", StoredFile("a.bin", "papers")))

    assert (message.state, message.attempts, smtp.received) == (State.QUEUED, 0, [])
    RemoteStorage.fails_after = None
    assert deliver_now(message).state == State.SENT


# --- Sender, Reply-To, header fields


def test_a_kind_sets_sender_and_reply_to(user: User, smtp: Sink) -> None:
    mail = WithOwnHeaders(user, replies=["Help <help@example.com>", "กานดา <k@example.com>"], more={"X-Order": "7 ก"})

    assert deliver(outbox.enqueue(mail)).state == State.SENT

    [received] = smtp.received
    assert received.sender == "shop@example.com"
    assert received.parsed["From"] == "Ann's shop <shop@example.com>"
    assert [str(a) for a in received.parsed["Reply-To"].addresses] == [
        "Help <help@example.com>",
        "กานดา <k@example.com>",
    ]
    assert received.parsed["X-Order"] == "7 ก"


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"message-id": "<1@example.com>"}, "sets message-id, which the mailer writes itself"),
        ({"BCC": "eve@example.com"}, "sets BCC, which the mailer writes itself"),
        *(
            ({name: "x"}, f"sets {name}, which the mailer writes itself")
            for name in (
                *("From", "Sender", "To", "Cc", "Reply-To", "Subject", "Date", "Auto-Submitted", "X-Entity-Ref-ID"),
                *("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "DKIM-Signature"),
                *("List-Unsubscribe", "List-Unsubscribe-Post", "List-ID", "Feedback-ID"),
            )
        ),
        ({"X Order": "7"}, "'X Order', which is not a valid name of a header field"),
        ({"X-Order:": "7"}, "which is not a valid name of a header field"),
        ({"X-Ö": "7"}, "which is not a valid name of a header field"),
        ({"": "7"}, "which is not a valid name of a header field"),
        ({"X-A\r\nBcc": "eve@example.com"}, "which is not a valid name of a header field"),
        ({"X-Order": "7\r\nBcc: eve@example.com"}, "sets X-Order to a value of several lines"),
        ({"X-Order": "7\nBcc: eve@example.com"}, "sets X-Order to a value of several lines"),
    ],
)
def test_a_reserved_or_invalid_header_field_fails_the_mail(
    user: User, smtp: Sink, more: dict[str, str], complaint: str
) -> None:
    message = deliver(outbox.enqueue(WithOwnHeaders(user, more=more)))

    assert (message.state, smtp.received) == (State.FAILED, [])
    assert complaint in message.reason
    assert "eve@" not in message.reason


@pytest.mark.parametrize("sender", ["a@example.com\r\nBcc: eve@example.com", "Shop <a@example.com\nX: y>"])
def test_a_line_break_in_sender_or_reply_to_fails_the_mail(user: User, smtp: Sink, sender: str) -> None:
    for mail in (WithOwnHeaders(user, from_=sender), WithOwnHeaders(user, replies=[sender])):
        message = deliver(outbox.enqueue(mail))
        assert (message.state, smtp.received) == (State.FAILED, [])
        assert "eve@" not in message.reason
