"""POSTCOMMIT_RATE_PER_SECOND: all workers share the rate limit, and the most urgent messages go first."""

import time
from datetime import timedelta

import pytest
import redis
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer import outbox, routes
from mailer.delivery import pipeline, rate, sweep
from mailer.models import Message, Queue, State
from mailer.transports import transmit
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues of the messages that the sweep publishes, without a broker."""
    queues: list[str] = []

    def publish(message: Message) -> bool:
        queues.append(message.queue)
        return True

    monkeypatch.setattr(sweep, "publish", publish)
    return queues


def enqueue(user: User, number: int, queue: Queue = Queue.DEFAULT) -> list[Message]:
    messages = [outbox.enqueue(Plain(user)) for _ in range(number)]
    Message.objects.filter(pk__in=[m.pk for m in messages]).update(queue=queue, publish_at=timezone.now())
    return messages


def test_workers_share_the_rate(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "10"}
    messages = enqueue(user, 12)

    def work(mine: list[Message]) -> None:
        for message in mine:
            pipeline.deliver(message.pk)
        transmit.close(routes.PRIMARY)

    began = time.monotonic()
    at_once([lambda n=n: work(messages[n::3]) for n in range(3)])  # type: ignore[misc]
    took = time.monotonic() - began

    assert len(smtp.received) == 12
    assert 1.1 <= took < 3


def test_without_a_rate_limit_no_worker_waits(user: User, smtp: Sink) -> None:
    assert rate.book_slot("transport", timedelta(0)) == 0.0
    assert rate.book_slot("transport", timedelta(0)) == 0.0


def test_unused_slots_are_not_saved_up(user: User, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "10"}
    rate.book_slot("transport", timedelta(0))
    time.sleep(0.5)

    waits = [rate.book_slot("transport", timedelta(seconds=5)) for _ in range(4)]

    assert [round(wait, 1) for wait in waits if wait is not None] == [0.0, 0.1, 0.2, 0.3]


def test_a_message_with_a_distant_slot_is_left_to_the_sweep(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "0.1"}
    first, second = enqueue(user, 2)

    pipeline.deliver(first.pk)
    pipeline.deliver(second.pk)

    second.refresh_from_db()
    assert (len(smtp.received), second.state, second.attempts) == (1, State.QUEUED, 0)
    assert second.publish_at <= timezone.now()


def test_critical_messages_may_book_slots_further_ahead(user: User, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "0.14"}  # one in seven seconds
    rate.book_slot("transport", timedelta(0))

    assert rate.book_slot("transport", rate.LONGEST_WAIT[Queue.BULK]) is None
    assert rate.book_slot("transport", rate.LONGEST_WAIT[Queue.CRITICAL]) is not None


def test_the_sweep_publishes_what_can_be_sent_soon_the_most_urgent_first(
    user: User, settings: Settings, published: list[str], broker: redis.Redis
) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "2"}  # twenty in the ten seconds ahead
    for queue in (Queue.BULK, Queue.DEFAULT, Queue.CRITICAL):
        enqueue(user, 15, queue)
    broker.flushall()

    assert sweep.publish_overdue() == 21
    assert published == ["critical"] * 15 + ["default"] * 5 + ["bulk"]


def test_deliver_due_waits_for_each_slot(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "4"}
    enqueue(user, 4)
    began = time.monotonic()

    call_command("deliver_due")

    assert len(smtp.received) == 4
    assert time.monotonic() - began >= 0.7
