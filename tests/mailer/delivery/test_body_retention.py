"""What a message said is erased some days after it was settled, and never before."""

from datetime import timedelta
from threading import Event

import pytest
import time_machine
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from mailer import outbox
from mailer.delivery import pipeline, retention, sweep
from mailer.email import ReferenceGone
from mailer.models import SETTLED, UNSETTLED, Message, Payload, State
from tests.at_once import at_once
from tests.mailer.mime.unusual_mail import a_message
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _smtp(smtp: Sink) -> None:
    """Through which everything goes here."""


def enqueue() -> Message:
    return outbox.enqueue_built(a_message())


def settle(message: Message, *, days_ago: float, state: State = State.SENT) -> Message:
    then = timezone.now() - timedelta(days=days_ago)
    Message.objects.filter(pk=message.pk).update(state=state, settled_at=then, created_at=then)
    Payload.objects.filter(messages=message).update(created_at=then)
    message.refresh_from_db()
    return message


def test_a_body_goes_days_after_the_message_was_settled_and_the_row_stays(settings: Settings) -> None:
    settings.POSTCOMMIT = {"BODY_RETENTION_DAYS": "3"}
    old, recent = settle(enqueue(), days_ago=3.1), settle(enqueue(), days_ago=2.9)

    assert retention.purge() == 0  # messages

    old.refresh_from_db()
    recent.refresh_from_db()
    assert (old.payload, old.state, old.recipient) == (None, State.SENT, "ann@example.com")
    assert [recent.payload] == list(Payload.objects.all())


@pytest.mark.parametrize("state", SETTLED)
def test_it_goes_however_the_matter_ended(state: State) -> None:
    settle(enqueue(), days_ago=8, state=state)
    retention.purge()

    assert not Payload.objects.exists()


@pytest.mark.parametrize("state", UNSETTLED)
def test_what_may_still_be_sent_keeps_its_body_for_ever(state: State) -> None:
    message = enqueue()
    Message.objects.update(state=state, claimed_until=timezone.now())
    with time_machine.travel(timezone.now() + timedelta(days=1000), tick=False):
        retention.purge()

    assert Payload.objects.get() == Message.objects.get(pk=message.pk).payload


def test_a_body_stays_for_the_last_of_its_messages() -> None:
    first = settle(enqueue(), days_ago=8)
    outbox.resend(first)
    retention.purge()
    assert Payload.objects.count() == 1

    Message.objects.update(state=State.SENT, settled_at=timezone.now() - timedelta(days=8))
    retention.purge()
    assert Payload.objects.count() == 0


def test_a_body_whose_messages_are_purged_goes_as_well() -> None:
    settle(enqueue(), days_ago=91)

    assert retention.purge() == 1
    assert not Payload.objects.exists()


def test_more_than_one_batch_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
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


def test_what_was_erased_is_not_sent_again_and_says_so() -> None:
    message = settle(enqueue(), days_ago=8, state=State.FAILED)
    retention.purge()

    assert outbox.retry(Message.objects.all(), reason="try again") == 0
    with pytest.raises(ReferenceGone, match=r"^its body was erased POSTCOMMIT_BODY_RETENTION_DAYS after"):
        outbox.resend(message)
    message.refresh_from_db()
    assert message.state == State.FAILED


def test_a_message_that_was_queued_again_is_sent(smtp: Sink) -> None:
    message = settle(enqueue(), days_ago=8, state=State.FAILED)
    assert outbox.retry(Message.objects.all(), reason="try again") == 1
    retention.purge()

    pipeline.deliver(message.pk)
    assert len(smtp.received) == 1


@pytest.mark.parametrize("again", ["requeue", "resend"])
def test_whoever_comes_to_need_a_body_while_it_is_looked_at_keeps_it(again: str, smtp: Sink) -> None:
    """The person's transaction is open while the purge looks, and commits before it is done."""
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
