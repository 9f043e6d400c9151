"""Messages that cannot be prepared: what they need is away, their template is broken, or this release does not know them."""

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer import database, email, outbox
from mailer.attachments import StorageAway
from mailer.delivery import pipeline, reserve
from mailer.delivery import prepare as preparing
from mailer.delivery.explain import explain
from mailer.delivery.pulse import look
from mailer.email import Recipient
from mailer.models import Message, State
from tests.mailer.kinds import Broken, Plain, Raising
from tests.mailer.worker import deliver, deliver_now, make_due
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


class Late(Raising):
    """Its context cannot be computed, and it has a deadline."""

    def expires_at(self) -> datetime:
        return timezone.now() + timedelta(minutes=5)


def pause(message: Message) -> float:
    """Return the seconds until the message is due."""
    return (message.due_at - timezone.now()).total_seconds()


def after(message: Message, trouble: timedelta) -> Message:
    """Let time pass, until the message is due after so much trouble."""
    Message.objects.filter(pk=message.pk).update(troubled_since=Now() - trouble)
    return make_due(message)


def test_a_service_that_is_away_for_a_while_fails_no_message(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 21 of issue 14."""
    message, other = outbox.enqueue(Raising(user)), outbox.enqueue(Plain(user))
    assert (deliver(message).state, deliver(other).state) == (State.QUEUED, State.SENT)
    assert (message.attempts, message.worker, message.reservations) == (0, None, 0)
    assert message.reason.startswith("could not be built: ZeroDivisionError")
    assert 8 <= pause(message) <= 10.1

    monkeypatch.setattr(Raising, "context", Plain.context)
    assert deliver_now(message).state == State.SENT
    assert (message.troubled_since, message.reason) == (None, "")


def test_pauses_grow_with_the_trouble_until_it_fails_after_an_hour(user: User, smtp: Sink) -> None:
    message, pauses = deliver(outbox.enqueue(Raising(user))), []
    for seconds in (5, 20, 300, 3500):
        assert deliver(after(message, timedelta(seconds=seconds))).state == State.QUEUED
        pauses.append(round(pause(message), -1))
    assert pauses == [10, 20, 300, 3500]

    assert deliver(after(message, preparing.BUILDING)).state == State.FAILED
    assert message.reason.startswith("could not be built: ZeroDivisionError")


def test_an_old_trouble_does_not_count_after_the_message_was_built(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = deliver(outbox.enqueue(Raising(user)))
    smtp.script.always["RCPT"] = "450 4.2.1 later"
    with monkeypatch.context() as patch:
        patch.setattr(Raising, "context", Plain.context)
        assert deliver(after(message, timedelta(minutes=59))).state == State.RETRYING

    assert deliver_now(message).state == State.RETRYING
    assert pause(message) <= 10.1


def test_a_message_whose_deadline_passes_before_it_can_be_built_expires(user: User, smtp: Sink) -> None:
    message = deliver(outbox.enqueue(Late(user)))
    assert message.state == State.QUEUED

    Message.objects.update(expires_at=Now())
    assert deliver_now(message).state == State.EXPIRED


@pytest.mark.parametrize("body", [None, "{% no_such_tag %}", "{% if %}", "{% include 'no/such.html' %}"])
def test_a_template_error_fails_at_once_and_can_be_retried(
    user: User, smtp: Sink, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str | None
) -> None:
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"DIRS": [tmp_path.parent]}]
    if body is not None:
        (tmp_path / "subject.txt").write_text("Subject")
        (tmp_path / "body.html").write_text(body)
        monkeypatch.setattr(Broken, "template", tmp_path.name)

    broken = deliver(outbox.enqueue(Broken(user)))
    assert (broken.state, broken.attempts) == (State.FAILED, 0)
    assert broken.reason.startswith("could not be built: Template")

    monkeypatch.setattr(Broken, "template", Plain.template)
    outbox.retry(Message.objects.filter(pk=broken.pk), reason="mended")
    assert deliver(broken).state == State.SENT


def test_a_storage_that_is_away_fails_no_message_however_long(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(mail: Plain) -> dict[str, Any]:
        raise StorageAway("the file's storage does not answer")

    monkeypatch.setattr(Raising, "context", fail)
    message = deliver(outbox.enqueue(Raising(user)))

    assert deliver(after(message, timedelta(days=3))).state == State.QUEUED


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_is_away_while_a_mail_is_built_fails_no_message(
    user: User, smtp: Sink, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(mail: Plain) -> dict[str, Any]:
        raise error("the connection is closed")

    monkeypatch.setattr(Raising, "context", ask)
    monkeypatch.setattr(database, "answers", lambda: False)
    message = outbox.enqueue(Raising(user))

    with pytest.raises(error):
        pipeline.deliver(message.pk)

    message.refresh_from_db()
    assert (message.state, message.attempts, message.troubled_since) == (State.QUEUED, 0, None)


@pytest.mark.django_db(transaction=True)
def test_a_statement_that_takes_too_long_for_one_mail_delays_no_other(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest message is taken first, so otherwise each worker would stop at it again and again."""

    def ask(mail: Plain) -> dict[str, Any]:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '10ms'")
            cursor.execute("SELECT pg_sleep(5)")
        return {}

    monkeypatch.setattr(Raising, "context", ask)
    slow, other = outbox.enqueue(Raising(user)), outbox.enqueue(Plain(user))
    make_due(slow, ago=timedelta(minutes=1))

    assert pipeline.deliver_due(["default"]) == 2

    slow.refresh_from_db()
    other.refresh_from_db()
    assert (other.state, slow.state, slow.worker, slow.attempts) == (State.SENT, State.QUEUED, None, 0)
    assert slow.reason.startswith("could not be built: OperationalError")
    assert deliver(after(slow, timedelta(days=1))).state == State.QUEUED  # however long


def test_a_lone_surrogate_in_an_error_is_replaced(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mailer.delivery")  # a parallel run of pytest cannot transfer such a line

    def fail(mail: Plain) -> dict[str, Any]:
        raise LookupError("no file caf\udce9.pdf")  # a name as os.listdir() returns it

    monkeypatch.setattr(Raising, "context", fail)

    message = deliver(outbox.enqueue(Raising(user)))

    assert (message.state, message.reason) == (State.QUEUED, "could not be built: LookupError: no file caf?.pdf")


# What only another release knows. Row 25 of issue 14.

GONE: dict[str, dict[str, Any]] = {
    "kind": {"kind": "accounts.FromTomorrow"},
    "field": {"arguments": {"account": 1, "sent_by": "x", "new_field": 1}},
    "transport": {"transport": "from-tomorrow"},
}


@pytest.mark.parametrize("what", GONE)
def test_what_this_release_does_not_know_waits_with_growing_pauses(user: User, smtp: Sink, what: str) -> None:
    message = outbox.enqueue(Plain(user))
    before = {name: getattr(message, name) for name in GONE[what]}
    Message.objects.update(**GONE[what])
    assert (deliver(message).state, message.attempts, message.worker) == (State.QUEUED, 0, None)
    assert 8 <= pause(message) <= 10.1

    assert deliver(after(message, timedelta(days=30))).state == State.QUEUED
    assert 290 <= pause(message) <= 301
    assert smtp.received == []

    Message.objects.update(**before)
    assert deliver_now(message).state == State.SENT


@pytest.mark.parametrize(
    ("what", "name"), [("kind", "accounts.FromTomorrow"), ("field", "new_field"), ("transport", "from-tomorrow")]
)
def test_what_waits_for_another_release_says_so(user: User, smtp: Sink, what: str, name: str) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(**GONE[what])
    message.refresh_from_db()
    for each in (message, deliver(message), deliver(after(message, timedelta(days=30)))):
        explanation = explain(each, look())
        assert "a release" in explanation.sentence
        assert repr(name) in explanation.sentence
        assert explanation.is_stuck


def test_a_message_of_an_unknown_transport_does_not_stop_others(user: User, smtp: Sink) -> None:
    unknown, known = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    Message.objects.filter(pk=unknown.pk).update(transport="from-tomorrow")

    assert pipeline.deliver_due(["default"]) == 1
    known.refresh_from_db()
    assert known.state == State.SENT
    assert reserve.has_due(["default"], ["from-tomorrow"])


@pytest.mark.django_db(transaction=True)
def test_an_unexpected_error_before_the_claim_delays_no_other_message(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest message is taken first, so otherwise each worker would stop at it again and again."""

    class Long(Plain):
        """The address of its recipient grew too long for the column after it was enqueued."""

        def recipient(self) -> Recipient:
            return Recipient(f"{'x' * 60}@{'.'.join(['y' * 60] * 4)}" if is_long else self.account.email)

    is_long = False
    monkeypatch.setitem(email.KINDS, Long.kind, Long)
    wrong, other = outbox.enqueue(Long(user)), outbox.enqueue(Plain(user))
    make_due(wrong, ago=timedelta(minutes=1))
    is_long = True

    assert pipeline.deliver_due(["default"]) == 2

    wrong.refresh_from_db()
    other.refresh_from_db()
    assert (other.state, wrong.state, wrong.worker, wrong.attempts) == (State.SENT, State.QUEUED, None, 0)
    assert wrong.reason.startswith("could not be delivered: DataError")
    assert deliver(after(wrong, preparing.BUILDING)).state == State.FAILED
