"""Bounces in a mailbox, read by IMAP from a real Dovecot: stored first, then marked as read."""

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, OperationalError
from django.test import override_settings
from pytest_django import Settings

from config.celery import app
from mailer import celery as module
from mailer import tasks
from mailer.conf import parse
from mailer.feedback import events, mailbox
from mailer.feedback.mailbox import Mailbox, NotRead, read
from mailer.models import DeliveryEvent
from tests.dovecot import PASSWORD, Dovecot
from tests.environment import new_directory
from tests.mailer.feedback.test_bounces import FILES, NO_BOUNCES
from tests.servers import free_port

BOUNCE, FULL, VACATION = FILES["postfix-unknown-a"], FILES["postfix-full"], NO_BOUNCES["vacation"]


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    with Dovecot(new_directory("dovecot")) as server:
        yield server


@pytest.fixture
def dovecot(server: Dovecot) -> Dovecot:
    assert app.conf.beat_schedule  # Celery reads its settings once, and not those of a test
    server.renew()
    return server


def url(server: Dovecot, *, password: str = PASSWORD, port: int = 0, folder: str = "") -> str:
    user, secret = quote(server.user, safe=""), quote(password, safe="")
    return f"imap://{user}:{secret}@127.0.0.1:{port or server.port}/{folder}"


def of(server: Dovecot) -> Mailbox:
    return Mailbox.from_url(url(server))


def test_each_mail_is_read_once(dovecot: Dovecot) -> None:
    got: list[bytes] = []
    dovecot.deliver(BOUNCE, "1")
    dovecot.deliver(VACATION, "2")

    def take(raw: bytes) -> int:
        got.append(raw.replace(b"\r\n", b"\n"))
        return int(got[-1] == BOUNCE)

    assert str(read(of(dovecot), take)) == "2 mails read, 1 reports stored"
    assert sorted(got) == sorted([BOUNCE, VACATION])
    assert dovecot.flags == ["S", "S"]
    assert str(read(of(dovecot), take)) == "0 mails read, 0 reports stored"


def test_a_bounce_is_deleted_if_asked_and_other_mail_never(dovecot: Dovecot) -> None:
    dovecot.deliver(BOUNCE, "1")
    dovecot.deliver(VACATION, "2")

    read(of(dovecot), lambda raw: int(b"multipart/report" in raw), delete=True)

    assert dovecot.flags == ["S"]


def test_a_mail_that_cannot_be_stored_stops_no_other_one_and_stays_unread(dovecot: Dovecot) -> None:
    for name in "123":
        dovecot.deliver(BOUNCE, name)
    are_storable = iter([True, False, True])

    def take(raw: bytes) -> int:
        if not next(are_storable):
            raise DataError("no")
        return 1

    assert str(read(of(dovecot), take)) == "2 mails read, 2 reports stored, 1 could not be stored"
    assert sorted(dovecot.flags) == ["", "S", "S"]


def test_a_run_stops_while_the_database_is_away_and_leaves_the_rest(dovecot: Dovecot) -> None:
    for name in "12":
        dovecot.deliver(BOUNCE, name)

    def take(raw: bytes) -> int:
        raise OperationalError("gone")

    with pytest.raises(OperationalError):
        read(of(dovecot), take)
    assert dovecot.flags == ["", ""]


def test_a_run_is_bounded(dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "MOST", 2)
    for name in "123":
        dovecot.deliver(BOUNCE + b"z" * 2_000_000, name)
    sizes: list[int] = []

    def take(raw: bytes) -> int:
        sizes.append(len(raw))
        return 1

    read(of(dovecot), take)

    assert len(sizes) == 2
    assert max(sizes) <= 500_000
    monkeypatch.setattr(mailbox, "LONGEST_RUN", -1.0)
    assert read(of(dovecot), lambda raw: 1).mails == 0


@pytest.mark.parametrize("wrong", ["password", "folder", "port"])
def test_a_mailbox_that_cannot_be_read_says_why_without_a_secret(dovecot: Dovecot, wrong: str) -> None:
    if wrong == "port":
        place = Mailbox.from_url(url(dovecot, port=free_port()))
    elif wrong == "folder":
        place = Mailbox.from_url(url(dovecot, folder="Nowhere%2Fat%20all"))
    else:
        place = Mailbox.from_url(url(dovecot, password="wröng"))

    with pytest.raises(NotRead) as raised:
        read(place, lambda raw: 1)

    assert len(str(raised.value)) > 5
    assert not {PASSWORD, dovecot.user} & set(str(raised.value).split())


@pytest.mark.parametrize("scheme", ["imap", "imaps"])
def test_a_mailbox_elsewhere_is_read_with_tls_only(
    scheme: str, dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STARTTLS, or TLS from the beginning. Without a trusted certificate the password is not sent."""
    monkeypatch.setattr(mailbox, "_is_this_machine", lambda host: False)
    place = replace(of(dovecot), host="localhost", has_tls=scheme == "imaps")
    place = replace(place, port=dovecot.tls_port if place.has_tls else dovecot.port)
    dovecot.deliver(BOUNCE, "1")

    with pytest.raises(NotRead, match="certificate verify failed"):
        read(place, lambda raw: 1)
    assert dovecot.flags == [""]

    monkeypatch.setenv("SSL_CERT_FILE", str(dovecot.certificate))
    assert read(place, lambda raw: 1).mails == 1


@pytest.mark.django_db
def test_the_task_reads_and_applies(dovecot: Dovecot, settings: Settings) -> None:
    settings.POSTCOMMIT = {"BOUNCE_MAILBOX": url(dovecot)}
    dovecot.deliver(BOUNCE, "1")
    dovecot.deliver(FULL, "2")

    assert tasks.read_bounces() == "2 mails read, 2 reports stored"
    assert set(DeliveryEvent.objects.values_list("code", flat=True)) == {"5.1.1", "5.2.2"}


@pytest.mark.django_db
def test_the_task_says_what_is_wrong(settings: Settings, monkeypatch: pytest.MonkeyPatch, dovecot: Dovecot) -> None:
    settings.POSTCOMMIT = {"BOUNCE_MAILBOX": url(dovecot, port=free_port())}
    assert tasks.read_bounces() == "the mailbox cannot be read: Connection refused"

    def away(*_: object, **__: object) -> None:
        raise OperationalError("gone")

    settings.POSTCOMMIT = {"BOUNCE_MAILBOX": url(dovecot)}
    dovecot.deliver(BOUNCE, "1")
    monkeypatch.setattr(events, "store", away)
    assert tasks.read_bounces() == "database away"


def test_beat_reads_the_mailbox_only_if_there_is_one() -> None:
    assert "read_bounces" not in module._configuration()["beat_schedule"]
    with override_settings(POSTCOMMIT={"BOUNCE_MAILBOX": "imaps://u:p@mail.example.com/"}):
        entry = module._configuration()["beat_schedule"]["read_bounces"]

    assert entry["task"] in app.tasks
    assert entry["options"]["expires"] == entry["schedule"] == 60.0


@pytest.mark.parametrize("value", ["mail.shop.example", "https://u:p@mail.shop.example/", "imaps://mail.shop.example/"])
def test_a_setting_that_is_no_mailbox_is_refused_without_quoting_it(value: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        parse({"BOUNCE_MAILBOX": value})
    assert value not in str(raised.value)


def test_a_url_is_read_with_its_codes() -> None:
    assert Mailbox.from_url("imaps://ann%40example.com:a%2Fb@mail.example.com:1993/Bounces%20here") == Mailbox(
        "mail.example.com", 1993, "ann@example.com", "a/b", "Bounces here", has_tls=True
    )
    assert Mailbox.from_url("imaps://u:p@mail.example.com").folder == "INBOX"
