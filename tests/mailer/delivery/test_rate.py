"""POSTCOMMIT_RATE_PER_SECOND: all workers share the rate limit, and the most urgent messages go first."""

import time
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import pacing, pipeline, rate
from mailer.models import Circuit, DeliveryAttempt, Message, Outcome, Queue, State, TransportState
from mailer.transports import connections
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def enqueue(user: User, number: int, queue: Queue = Queue.DEFAULT) -> list[Message]:
    messages = [outbox.enqueue(Plain(user)) for _ in range(number)]
    Message.objects.filter(pk__in=[m.pk for m in messages]).update(queue=queue)
    return messages


def test_workers_share_the_rate(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "10"}
    messages = enqueue(user, 12)

    def work(mine: list[Message]) -> None:
        for message in mine:
            pipeline.deliver(message.pk)
        connections.close_all()

    began = time.monotonic()
    at_once([lambda n=n: work(messages[n::3]) for n in range(3)])  # type: ignore[misc]
    took = time.monotonic() - began

    assert len(smtp.received) == 12
    assert 1.1 <= took < 10


def test_without_a_rate_limit_no_worker_waits(user: User, smtp: Sink) -> None:
    assert rate.book_slot("transport", timedelta(0)) == 0.0
    assert rate.book_slot("transport", timedelta(0)) == 0.0


def test_unused_slots_are_not_saved_up(user: User, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "2"}
    rate.book_slot("transport", timedelta(0))
    time.sleep(1.5)

    waits = [rate.book_slot("transport", timedelta(seconds=5)) for _ in range(4)]

    assert waits == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=0.2)  # of a busy machine


def test_a_message_with_a_distant_slot_stays_due(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "0.1"}
    first, second = enqueue(user, 2)

    pipeline.deliver(first.pk)
    pipeline.deliver(second.pk)

    second.refresh_from_db()
    assert (len(smtp.received), second.state, second.attempts) == (1, State.QUEUED, 0)
    assert (second.worker, Message.objects.due().count()) == (None, 1)


def test_critical_messages_may_book_slots_further_ahead(user: User, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "0.14"}  # one in seven seconds
    rate.book_slot("transport", timedelta(0))

    assert rate.book_slot("transport", rate.longest_wait(Queue.BULK)) is None
    assert rate.book_slot("transport", rate.longest_wait(Queue.CRITICAL)) is not None


def test_a_kick_delivers_the_most_urgent_first(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "20"}
    for queue in (Queue.BULK, Queue.DEFAULT, Queue.CRITICAL):
        enqueue(user, 3, queue)

    assert pipeline.deliver_due(list(Queue)) == 9
    sent = Message.objects.filter(state=State.SENT).order_by("delivery_attempts__started_at")
    assert list(sent.values_list("queue", flat=True)) == ["critical"] * 3 + ["default"] * 3 + ["bulk"] * 3


def test_deliver_due_waits_for_each_slot(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "4"}
    enqueue(user, 4)
    began = time.monotonic()

    call_command("deliver_due")

    assert len(smtp.received) == 4
    assert time.monotonic() - began >= 0.7


# Learnt from what the server says. Row 35 of issue 14.

TOO_MANY = "450 4.7.1 Error: too many messages, slow down"


def took_twelve_in_twenty_seconds(user: User) -> None:
    for message in enqueue(user, 12):
        pipeline.deliver(message.pk)
    DeliveryAttempt.objects.update(finished_at=Now() - timedelta(seconds=20))


def test_a_refusal_because_of_the_rate_slows_the_transport_down_and_no_message_pays(user: User, smtp: Sink) -> None:
    took_twelve_in_twenty_seconds(user)
    refused = enqueue(user, 1)[0]
    smtp.script.always["RCPT"] = TOO_MANY

    pipeline.deliver(refused.pk)

    refused.refresh_from_db()
    assert (refused.state, refused.delivery_attempts.get().outcome) == (State.RETRYING, Outcome.TRANSPORT_DOWN)
    assert Message.objects.due().count() == 1
    assert not Circuit.objects.exclude(paused_until=None).exists()
    learnt = TransportState.objects.get().rate
    assert learnt == pytest.approx(pacing.slower(None, 12, timedelta(seconds=20)), rel=0.1)


def test_refusals_that_come_together_slow_it_down_once(user: User, smtp: Sink) -> None:
    took_twelve_in_twenty_seconds(user)
    rate.slow_down("transport")
    learnt = TransportState.objects.get().rate

    for _ in range(5):
        rate.slow_down("transport")

    assert TransportState.objects.get().rate == pytest.approx(learnt, rel=0.1)


def test_a_learnt_rate_grows_with_each_message_until_it_is_forgotten(user: User, smtp: Sink) -> None:
    TransportState.objects.create(alias="transport", rate=2.0)
    waits = [rate.book_slot("transport", timedelta(seconds=5)) for _ in range(3)]

    assert waits == pytest.approx([0.0, 0.5, 1.0], abs=0.2)  # of a busy machine
    grown = TransportState.objects.get().rate
    assert grown is not None
    assert grown > 2.0

    TransportState.objects.update(rate=pacing.FORGET_ABOVE + 1, slot_at=Now())
    rate.book_slot("transport", timedelta(seconds=5))
    assert TransportState.objects.get().rate is None
    assert rate.book_slot("transport", timedelta(0)) == 0.0


def test_a_learnt_rate_and_that_of_the_settings_are_both_kept(user: User, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "10"}
    TransportState.objects.create(alias="transport", rate=1.0)
    waits = [rate.book_slot("transport", timedelta(seconds=5)) for _ in range(2)]
    assert [round(wait) for wait in waits if wait is not None] == [0, 1]

    TransportState.objects.update(rate=40.0, slot_at=Now())
    waits = [rate.book_slot("transport", timedelta(seconds=5)) for _ in range(2)]
    assert [round(wait, 1) for wait in waits if wait is not None] == [0.0, 0.1]
