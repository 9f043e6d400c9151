"""Stored bodies are erased some days after their messages were settled, not before."""

from datetime import timedelta
from threading import Event

import pytest
import time_machine
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from mailer import outbox
from mailer.delivery import pipeline, retention
from mailer.email import ReferenceGone
from mailer.models import SETTLED, UNSETTLED, Message, Payload, State
from tests.at_once import at_once
from tests.mailer.mime.unusual_mail import a_message
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _smtp_server(smtp: Sink) -> None:
    """The transport of all tests here."""


def enqueue() -> Message:
    return outbox.enqueue_built(a_message())


def settle(message: Message, *, days_ago: float, state: State = State.SENT) -> Message:
    then = timezone.now() - timedelta(days=days_ago)
    Message.objects.filter(pk=message.pk).update(state=state, settled_at=then, created_at=then)
    Payload.objects.filter(messages=message).update(created_at=then)
    message.refresh_from_db()
    return message


def test_a_body_is_erased_days_after_its_message_was_settled_and_the_row_stays(settings: Settings) -> None:
    settings.POSTCOMMIT = {"BODY_RETENTION_DAYS": "3"}
    old, recent = settle(enqueue(), days_ago=3.1), settle(enqueue(), days_ago=2.9)

    assert retention.purge() == 0  # messages

    old.refresh_from_db()
    recent.refresh_from_db()
    assert (old.payload, old.state, old.recipient) == (None, State.SENT, "ann@example.com")
    assert [recent.payload] == list(Payload.objects.all())


@pytest.mark.parametrize("state", SETTLED)
def test_a_body_is_erased_after_every_final_state(state: State) -> None:
    settle(enqueue(), days_ago=8, state=state)
    retention.purge()

    assert not Payload.objects.exists()


@pytest.mark.parametrize("state", UNSETTLED)
def test_an_unsettled_message_keeps_its_body(state: State) -> None:
    message = enqueue()
    Message.objects.update(state=state, claimed_until=timezone.now())
    with time_machine.travel(timezone.now() + timedelta(days=1000), tick=False):
        retention.purge()

    assert Payload.objects.get() == Message.objects.get(pk=message.pk).payload


def test_a_body_is_kept_until_the_last_of_its_messages_is_old() -> None:
    first = settle(enqueue(), days_ago=8)
    outbox.resend(first)
    retention.purge()
    assert Payload.objects.count() == 1

    Message.objects.update(state=State.SENT, settled_at=timezone.now() - timedelta(days=8))
    retention.purge()
    assert Payload.objects.count() == 0


def test_a_body_is_erased_with_the_last_of_its_messages() -> None:
    settle(enqueue(), days_ago=91)

    assert retention.purge() == 1
    assert not Payload.objects.exists()


def test_more_than_one_batch_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        settle(enqueue(), days_ago=8)
    retention.purge()

    assert not Payload.objects.exists()


def test_bodies_are_erased_without_being_read() -> None:
    settle(enqueue(), days_ago=8)
    with CaptureQueriesContext(connection) as queries:
        retention.purge()

    assert any("DELETE FROM" in query["sql"] for query in queries)
    assert not [query["sql"] for query in queries if '"document"' in query["sql"]]


def test_an_erased_message_cannot_be_retried_or_resent() -> None:
    message = settle(enqueue(), days_ago=8, state=State.FAILED)
    retention.purge()

    assert outbox.retry(Message.objects.all(), reason="try again") == 0
    with pytest.raises(ReferenceGone, match=r"^its body was erased POSTCOMMIT_BODY_RETENTION_DAYS after"):
        outbox.resend(message)
    message.refresh_from_db()
    assert message.state == State.FAILED


def test_a_retried_message_keeps_its_body(smtp: Sink) -> None:
    message = settle(enqueue(), days_ago=8, state=State.FAILED)
    assert outbox.retry(Message.objects.all(), reason="try again") == 1
    retention.purge()

    pipeline.deliver(message.pk)
    assert len(smtp.received) == 1


@pytest.mark.parametrize("again", ["requeue", "resend"])
def test_a_body_that_is_needed_during_the_purge_is_kept(again: str, smtp: Sink) -> None:
    """A person's transaction is open when the purge begins, and commits before it ends."""
    message = settle(enqueue(), days_ago=8, state=State.FAILED)
    asked, purged = Event(), Event()

    def ask() -> None:
        with transaction.atomic():
            if again == "requeue":
                assert outbox.retry(Message.objects.all(), reason="try again") == 1
            else:
                outbox.resend(message)
            asked.set()
            purged.wait(5)

    def purge() -> None:
        asked.wait(5)
        retention.purge()
        purged.set()

    _, failures = at_once([ask, purge])

    assert failures == []
    for waiting in Message.objects.waiting():
        pipeline.deliver(waiting.pk)
    assert len(smtp.received) == 1
