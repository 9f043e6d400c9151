"""Mail of Django and other apps through the outbox backend: the same messages, with the outbox's promises."""

import email
import json
import logging
import re
import zlib
from collections import deque
from collections.abc import Iterator
from email import policy
from typing import Any

import psycopg
import pytest
import time_machine
from anymail.message import AnymailMessage
from django.conf import settings as django_settings
from django.contrib import admin
from django.contrib.auth.forms import PasswordResetForm
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives, InvalidMailer, mailers
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.log import AdminEmailHandler
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.attachments import TooLarge
from mailer.backend import OutboxBackend
from mailer.checks.settings import check_settings
from mailer.delivery import broker, pipeline
from mailer.email import ReferenceGone
from mailer.models import Message, Payload, State
from mailer.transports import connections, verp
from mailer.transports.anymail import METADATA
from tests.mailer.mime.unusual_mail import ANN, BOB, SHAPES, Signed, a_message, normalised
from tests.mailer.worker import deliver
from tests.smtp_sink import Received, Sink

pytestmark = pytest.mark.django_db

OUTBOX = "mailer.backend.OutboxBackend"


def deliver_everything() -> None:
    Message.objects.waiting().update(due_at=timezone.now())
    for message in Message.objects.waiting().order_by("pk"):
        pipeline.deliver(message.pk)


@pytest.fixture(params=["django.core.mail.backends.smtp.EmailBackend", "mailer.transports.smtp.EmailBackend"])
def direct(request: pytest.FixtureRequest, smtp: Sink, settings: Settings) -> Iterator[Sink]:
    """A second mail server, which `using="at_once"` reaches directly with the backend that the outbox uses."""
    with Sink() as sink:
        to = {
            alias: {"BACKEND": request.param, "OPTIONS": {"host": "127.0.0.1", "port": port}}
            for alias, port in (("transport", smtp.port), ("at_once", sink.port))
        }
        settings.MAILERS = {**settings.MAILERS, **to}
        yield sink


def without_made_id(received: Received) -> tuple[str, list[str], bytes]:
    source = re.sub(rb"Message-ID: <[0-9a-f]{32}@[^>]+>", b"Message-ID: <made>", normalised(received.source))
    return received.sender, received.recipients, source


def read(received: Received) -> list[tuple[list[tuple[str, str]], object]]:
    """Parse it as a mail client does."""
    source = email.message_from_bytes(without_made_id(received)[2], policy=policy.default)
    return [
        ([*map(tuple, part.items())], None if part.is_multipart() else part.get_content()) for part in source.walk()
    ]


def assert_equal_mail(ours: Sink, direct: Sink, shape: str = "") -> None:
    deliver_everything()
    assert len(ours.received) == len(direct.received) > 0
    is_djangos = django_settings.MAILERS["at_once"]["BACKEND"].startswith("django.")
    for mine, theirs in zip(ours.received, direct.received, strict=True):
        if not is_djangos:
            assert without_made_id(mine) == without_made_id(theirs)
        elif without_made_id(mine) != without_made_id(theirs):  # the header of an attached MIME part
            assert shape in ("ready parts", "messages as files")
            assert read(mine) == read(theirs)


# --- The same bytes as Django's own backend sends --------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_server_gets_the_same_bytes_as_from_django(shape: str, smtp: Sink, direct: Sink) -> None:
    message = SHAPES[shape]()
    assert message.send() == 1
    assert message.send(using="at_once") == 1
    assert smtp.received == []

    assert_equal_mail(smtp, direct, shape)
    assert set(Message.objects.values_list("state", flat=True)) == {State.SENT}


def test_an_international_address_is_sent_as_by_django(smtp: Sink) -> None:
    assert a_message(to=["Grüße <grüße@example.com>"]).send() == 1

    deliver_everything()

    assert Message.objects.get().recipient == "grüße@example.com"
    assert [received.recipients for received in smtp.received] == [["grüße@example.com"]]


def send_mail(using: str | None) -> None:
    mail.send_mail("Grüße", "The text.", None, [ANN, BOB], html_message="<p>Hi</p>", using=using)


def send_mass_mail(using: str | None) -> None:
    assert (
        mail.send_mass_mail([("One", "1", None, [ANN]), ("Two", "2", None, [BOB]), ("None", "", None, [])], using=using)
        == 2
    )


def mail_admins_and_managers(using: str | None) -> None:
    mail.mail_admins("A subject", "The text.", html_message="<p>Hi</p>", using=using)
    mail.mail_managers("A subject", "The text.", using=using)


def log_an_error(using: str | None) -> None:
    record = logging.LogRecord("django.request", logging.ERROR, "a.py", 1, "It broke: %s", ("so",), None)
    AdminEmailHandler(using=using, include_html=True).emit(record)


@pytest.mark.parametrize("send", [send_mail, send_mass_mail, mail_admins_and_managers, log_an_error])
def test_mail_of_django_itself_has_the_same_bytes(send: Any, smtp: Sink, direct: Sink, settings: Settings) -> None:
    settings.ADMINS, settings.MANAGERS = ["Root <root@example.com>", BOB], ["boss@example.com"]

    with time_machine.travel(timezone.now(), tick=False):  # Django's error report has the time
        send(None)
        send("at_once")

    assert_equal_mail(smtp, direct)


def test_djangos_password_reset_waits_for_the_commit(user: User, smtp: Sink) -> None:
    user.set_password("something long enough")
    user.save()
    form = PasswordResetForm({"email": user.email})
    assert form.is_valid()

    def reset() -> None:
        form.save(domain_override="example.com", email_template_name="registration/password_reset_email.html")

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        reset()
        raise ZeroDivisionError
    assert not Message.objects.exists()

    reset()
    deliver_everything()
    [received] = smtp.received
    assert received.recipients == [user.email]
    assert "/accounts/password-reset/" in received.part("plain")


# --- The outbox's promises -------------------------------------------------------------------------------------------


def test_no_commit_no_mail_and_no_body(smtp: Sink) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        send_mail(None)
        assert Message.objects.count() == Payload.objects.count() == 1
        raise ZeroDivisionError

    assert Message.objects.count() == Payload.objects.count() == 0


def test_a_message_is_published_after_the_commit(
    django_capture_on_commit_callbacks: Any, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "TIMEOUT", 10.0)  # the machine may be busy
    with capture_logs() as lines, django_capture_on_commit_callbacks(execute=True) as callbacks:
        send_mail(None)

    assert callbacks
    assert [line["event"] for line in lines] == ["enqueued", "published"]


def test_several_messages_are_enqueued_together_or_not_at_all(smtp: Sink) -> None:
    good, bad = a_message(), a_message(subject="A\nsecond line")
    with pytest.raises(ValueError, match="linefeed"):
        mailers.default.send_messages([good, good, bad])

    assert not Message.objects.exists()
    some: Any = iter([good, EmailMessage("no recipient"), good])
    assert mailers.default.send_messages(some) == 2
    assert Message.objects.count() == 2


def test_a_message_without_recipients_costs_no_statement(smtp: Sink, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert mailers.default.send_messages([]) == 0
        assert mailers.default.send_messages([EmailMessage("no recipient", to=[""])]) == 0


def test_a_retry_sends_the_same_bytes(smtp: Sink) -> None:
    smtp.script.once["BODY"] = deque(["451 4.2.0 later", "451 4.2.0 later"])
    SHAPES["files of every kind"]().send()
    message = Message.objects.get()
    for _ in range(3):
        deliver_everything()

    message.refresh_from_db()
    assert (message.state, message.attempts) == (State.SENT, 3)
    [received] = smtp.received
    assert received.parsed["Message-ID"] == message.message_id_header


def test_each_of_several_recipients_gets_the_message_once(smtp: Sink) -> None:
    smtp.script.to = {BOB: "451 4.7.1 greylisted"}
    EmailMessage("A subject", "The text.", to=[f"Ann <{ANN}>", BOB], bcc=["dee@example.com"]).send()
    deliver_everything()
    message = Message.objects.get()
    assert (message.state, message.answers) == (State.RETRYING, {ANN: "accepted", "dee@example.com": "accepted"})

    smtp.script.to = {}
    deliver_everything()

    first, second = smtp.received
    assert (first.recipients, second.recipients) == ([ANN, "dee@example.com"], [BOB])
    assert first.parsed["To"] == second.parsed["To"] == f"Ann <{ANN}>, {BOB}"


def test_a_message_id_that_the_caller_set_is_kept(smtp: Sink) -> None:
    a_message(headers={"message-id": "<own@example.com>", "X-After": "1"}).send()

    assert Message.objects.get().message_id_header == "<own@example.com>"
    deliver_everything()
    assert smtp.received[0].parsed.get_all("Message-ID") == ["<own@example.com>"]


def test_the_row_has_the_bare_address_from_the_start(smtp: Sink) -> None:
    a_message(to=[f"{'A very long name ' * 20}<{ANN}>"]).send()

    assert Message.objects.get().recipient == ANN


def test_sending_a_message_twice_makes_two_messages(smtp: Sink) -> None:
    message = a_message()
    message.send()
    message.subject = "Another one"
    message.send()
    deliver_everything()

    assert [received.parsed["Subject"] for received in smtp.received] == ["A subject", "Another one"]
    assert len({received.parsed["Message-ID"] for received in smtp.received}) == 2


def test_mime_of_a_subclass_arrives_unchanged(smtp: Sink) -> None:
    made = Signed("A secret", "The text.", to=[ANN])
    source = made.message(policy=policy.SMTP)
    made.message = lambda **_: source  # type: ignore[method-assign]
    made.send()
    deliver_everything()

    [received] = smtp.received
    assert received.source == source.as_bytes()
    assert received.parsed["Message-ID"] == Message.objects.get().message_id_header


class Own(EmailMessage):
    """A subclass that changes its MIME."""

    def message(self, **options: Any) -> Any:
        made = super().message(**options)
        made["X-Own"] = "1"
        return made


@pytest.mark.parametrize("without", [(), ("8BITMIME", "SMTPUTF8")])
@pytest.mark.parametrize("with_file", [False, True])
def test_mime_of_a_subclass_is_readable_after_any_server(
    without: tuple[str, ...], with_file: bool, through: Any
) -> None:
    message = Own("S", "กาแฟ a=20b", None, [ANN])
    if with_file:
        message.attach("a.txt", "กาแฟ a=20b", "text/plain")
    with Sink(without=without) as sink:
        through(sink.url)
        message.send()
        assert deliver(Message.objects.get()).state == State.SENT
        connections.close_all()

    [received] = sink.received
    texts = [str(part.get_content()).strip() for part in received.parsed.walk() if not part.is_multipart()]
    assert set(texts) == {"กาแฟ a=20b"}
    assert not without or received.source.isascii()
    assert received.parsed["X-Own"] == "1"


def test_anymails_attributes_reach_its_backend(settings: Settings) -> None:
    settings.MAILERS = {"default": {"BACKEND": OUTBOX}, "transport": {"BACKEND": "anymail.backends.test.EmailBackend"}}
    message = AnymailMessage("A subject", "The text.", to=[ANN], metadata={"order": 5}, tags=["receipt"])
    message.esp_extra = {"stream": "broadcast"}
    message.send()
    deliver_everything()

    sent: Any = mail.outbox[0]
    params = sent.anymail_test_params
    token = params["metadata"].pop(METADATA)
    assert verp.read(token) == Message.objects.get().pk
    assert (params["metadata"], params["tags"], params["stream"]) == ({"order": 5}, ["receipt"], "broadcast")


def test_a_body_of_a_newer_release_waits_for_a_newer_worker(smtp: Sink) -> None:
    a_message().send()
    stored = json.loads(zlib.decompress(Payload.objects.get().document))
    Payload.objects.update(document=zlib.compress(json.dumps(stored | {"version": 2}).encode()))

    with capture_logs() as lines:
        deliver_everything()
    assert Message.objects.get().state == State.QUEUED
    assert [line["event"] for line in lines] == ["not prepared; tried again"]


def test_a_test_system_redirects_mime_of_a_subclass(smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"REDIRECT_ALL_TO": "staging@example.org", "SUBJECT_PREFIX": "[staging]"}
    Signed("A secret", "The text.", to=[ANN], bcc=[BOB]).send()
    deliver_everything()

    [received] = smtp.received
    assert received.recipients == ["staging@example.org"]
    assert received.parsed["Subject"] == "[staging] A secret"


# --- Resending -----------------------------------------------------------------------------------------------


def test_a_person_can_resend_it_as_a_new_message(smtp: Sink) -> None:
    SHAPES["ready parts"]().send()
    deliver_everything()
    again = outbox.resend(Message.objects.get())
    deliver_everything()

    first, second = smtp.received
    assert without_made_id(first) == without_made_id(second)
    assert first.parsed["Message-ID"] != second.parsed["Message-ID"] == again.message_id_header
    assert Payload.objects.count() == 1


def test_a_message_without_its_body_cannot_be_resent(smtp: Sink) -> None:
    a_message().send()
    deliver_everything()
    Message.objects.update(payload=None)
    Payload.objects.all().delete()

    with pytest.raises(ReferenceGone, match="its body was erased"):
        outbox.resend(Message.objects.get())


# --- Routes ------------------------------------------------------------------------------------------------------------


def test_an_outbox_may_have_its_own_transport(smtp: Sink, direct: Sink, settings: Settings) -> None:
    marketing = {"BACKEND": OUTBOX, "OPTIONS": {"transport": "at_once"}}
    settings.MAILERS = {**settings.MAILERS, "marketing": marketing}

    mail.send_mail("Offers", "The text.", None, [ANN], using="marketing")
    assert Message.objects.get().transport == "at_once"
    deliver_everything()

    assert (len(smtp.received), len(direct.received)) == (0, 1)
    assert outbox.resend(Message.objects.get()).transport == "at_once"


def test_a_transport_used_directly_sends_at_once(smtp: Sink) -> None:
    mail.send_mail("subject", "text", None, [ANN], using="transport")

    assert len(smtp.received) == 1
    assert not Message.objects.exists()


class Ours(OutboxBackend):
    """A subclass of the project."""


@pytest.mark.parametrize("wrong", ["no_such", "default", "other", "variant"])
def test_an_outbox_whose_transport_does_not_send_is_an_error(wrong: str, settings: Settings, sink: Sink) -> None:
    settings.MAILERS = {
        "transport": email_url(sink.url),
        "default": {"BACKEND": OUTBOX, "OPTIONS": {"transport": wrong}},
        "other": {"BACKEND": OUTBOX},
        "variant": {"BACKEND": f"{__name__}.Ours"},
    }
    [found] = check_settings(None)
    assert (found.id, found.msg) == (
        "mailer.E014",
        f"MAILERS['default']: its option 'transport' is {wrong!r}, "
        "which is not the alias of a mailer that sends; "
        "there are: 'transport'.",
    )


def test_an_outbox_without_a_transport_is_an_error(settings: Settings) -> None:
    settings.MAILERS = {"default": {"BACKEND": OUTBOX}}

    with pytest.raises(InvalidMailer, match=r"are sent by MAILERS\['transport'\], which is missing"):
        mailers.default  # noqa: B018


def test_an_unknown_option_is_an_error(settings: Settings) -> None:
    settings.MAILERS = {"transport": {}, "default": {"BACKEND": OUTBOX, "OPTIONS": {"transports": "x"}}}

    with pytest.raises(InvalidMailer, match="Unknown options 'transports'"):
        mailers.default  # noqa: B018


# --- fail_silently ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fail_silently(smtp: Sink, settings: Settings) -> None:
    settings.MAILERS = {**settings.MAILERS, "default": {"BACKEND": OUTBOX, "OPTIONS": {"fail_silently": True}}}


def test_a_message_that_is_too_large_says_what_to_do(smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"MAX_MESSAGE_SIZE": "1000"}
    message = a_message()
    message.attach("large.bin", b"\0" * 1000)

    with pytest.raises(TooLarge, match=r"POSTCOMMIT_MAX_MESSAGE_SIZE; send a link instead of the largest file$"):
        message.send()
    assert not Payload.objects.exists()


def test_the_html_counts_as_part_of_the_size(smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"MAX_MESSAGE_SIZE": "1000"}
    message = EmailMultiAlternatives("A subject", "The text.", None, [ANN])
    message.attach_alternative("x" * 1000, "text/html")

    with pytest.raises(TooLarge):
        message.send()


def test_fail_silently_drops_only_the_message_that_is_too_large(fail_silently: None, settings: Settings) -> None:
    settings.POSTCOMMIT = {"MAX_MESSAGE_SIZE": "20"}
    with capture_logs() as lines:
        assert mailers.default.send_messages([a_message(body="x" * 21), a_message()]) == 1

    assert [(line["event"], line["error"]) for line in lines] == [("mail dropped because of fail_silently", "TooLarge")]
    assert Message.objects.count() == Payload.objects.count() == 1
    with pytest.warns((DeprecationWarning, PendingDeprecationWarning), match="fail_silently"):
        assert mail.send_mail("A", "x" * 21, None, [ANN], fail_silently=True) == 0


def test_fail_silently_does_not_hide_an_invalid_message(fail_silently: None) -> None:
    with pytest.raises(ValueError, match="Invalid address"):
        a_message(to=["not an address"]).send()


@pytest.fixture
def locked_table(transactional_db: None) -> Iterator[None]:
    """Lock the table, so that an INSERT fails after a tenth of a second."""
    parameters = connection.get_connection_params()
    conninfo = {name: parameters[name] for name in ("dbname", "user", "host", "port") if name in parameters}
    with psycopg.connect(**conninfo) as other, connection.cursor() as cursor:
        other.execute(f"LOCK TABLE {Payload._meta.db_table} IN ACCESS EXCLUSIVE MODE")
        cursor.execute("SET lock_timeout = '100ms'")
        yield
        cursor.execute("RESET lock_timeout")


def test_fail_silently_hides_a_database_that_is_away_outside_a_transaction(
    fail_silently: None, locked_table: None
) -> None:
    with capture_logs() as lines:
        assert a_message().send() == 0

    assert [line["event"] for line in lines] == ["mail dropped because of fail_silently"]


def test_fail_silently_does_not_hide_the_database_inside_a_transaction(fail_silently: None, locked_table: None) -> None:
    with transaction.atomic():
        with pytest.raises(OperationalError):
            a_message().send()
        assert User.objects.count() == 0  # the savepoint is rolled back, and the caller may go on


def test_without_fail_silently_the_error_of_the_database_is_raised(smtp: Sink, locked_table: None) -> None:
    with pytest.raises(OperationalError):
        a_message().send()


# --- Secrets ---------------------------------------------------------------------------------------------------------


def test_only_the_stored_body_has_the_content(smtp: Sink, django_capture_on_commit_callbacks: Any) -> None:
    with capture_logs() as lines, django_capture_on_commit_callbacks(execute=True):
        message = EmailMultiAlternatives("A subject", "https://example.com/SECRET", to=[ANN])
        message.attach("SECRET.txt", "SECRET")
        message.send()
        deliver_everything()

    row = Message.objects.values().get()
    assert "SECRET" not in str(row)
    assert row["arguments"] == {"payload": str(Payload.objects.get().pk)}
    assert "SECRET" not in str(lines)
    assert ANN not in str(lines)
    assert "SECRET" in smtp.received[0].source.decode()


def test_the_admin_hides_what_makes_a_link_work(client: Client, smtp: Sink) -> None:
    client.force_login(User.objects.create_superuser("operator@example.com"))
    a_message(body="https://example.com/SECRET").send()
    deliver_everything()

    for name, arguments in (("changelist", []), ("change", [Message.objects.get().pk])):
        page = client.get(reverse(f"admin:mailer_message_{name}", args=arguments)).content.decode()
        assert "A subject" in page or name == "changelist"
        assert "SECRET" not in page
    assert "payload" not in {model._meta.model_name for model in admin.site._registry}


# --- Like Django's backends; `make conformance` has all of Django's own tests ------------------------------------------


def test_the_backend_can_be_opened_and_closed(smtp: Sink) -> None:
    backend: Any = mailers.default
    backend.close()  # without open()
    with backend as same:
        assert same is backend
        assert same.send_messages([a_message()]) == 1
    assert backend.alias == "default"


def test_a_backend_without_an_alias_works(smtp: Sink) -> None:
    backend = OutboxBackend()
    assert backend.alias is None
    assert backend.send_messages([a_message()]) == 1
