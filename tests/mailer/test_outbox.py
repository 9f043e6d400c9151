"""The public API: keys, delays, cancel, retry, resend."""

from datetime import timedelta

import pytest
import redis
import time_machine
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline, sweep
from mailer.email import ReferenceGone
from mailer.models import Message, State
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_key_is_unique_until_its_message_is_settled(user: User) -> None:
    first = outbox.enqueue(Plain(user), key="welcome:1")
    assert outbox.enqueue(Plain(user), key="welcome:1").pk == first.pk
    assert outbox.enqueue(Plain(user), key="welcome:2").pk != first.pk

    for state in (State.RETRYING, State.SENDING, State.HELD):
        Message.objects.filter(pk=first.pk).update(state=state, claimed_until=timezone.now())
        assert outbox.enqueue(Plain(user), key="welcome:1").pk == first.pk

    for state in (State.SENT, State.CANCELLED, State.FAILED):
        Message.objects.filter(key="welcome:1").update(state=state)
        assert outbox.enqueue(Plain(user), key="welcome:1").pk != first.pk


def test_messages_without_a_key_are_independent(user: User) -> None:
    assert outbox.enqueue(Plain(user)).pk != outbox.enqueue(Plain(user)).pk


def test_a_rollback_releases_the_key(user: User) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outbox.enqueue(Plain(user), key="welcome:1")
        raise ZeroDivisionError

    assert outbox.enqueue(Plain(user), key="welcome:1").pk
    assert Message.objects.count() == 1


def test_concurrent_calls_with_one_key_enqueue_one_message(user: User) -> None:
    def enqueue() -> int:
        with transaction.atomic():
            return outbox.enqueue(Plain(user), key="welcome:1").pk

    rows, _ = at_once([enqueue] * 12)

    assert len(rows) == 12
    assert len(set(rows)) == 1
    assert Message.objects.count() == 1


def test_a_failed_message_is_not_retried_beside_a_newer_one_with_its_key(user: User) -> None:
    failed = outbox.enqueue(Plain(user), key="welcome:1")
    Message.objects.filter(pk=failed.pk).update(state=State.FAILED)
    outbox.enqueue(Plain(user), key="welcome:1")

    assert outbox.retry(Message.objects.filter(pk=failed.pk), reason="again") == 0


def test_a_retried_message_begins_anew(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    long_ago = Now() - timedelta(days=6)  # longer than a message is tried
    Message.objects.update(state=State.FAILED, attempts=10, settled_at=Now(), first_due_at=long_ago, due_at=long_ago)

    assert outbox.retry(Message.objects.all(), reason="again") == 1

    message.refresh_from_db()
    assert (message.state, message.reason) == (State.QUEUED, "again")
    assert (message.attempts, message.counted_after, message.settled_at) == (10, 10, None)
    assert message.first_due_at == message.due_at > timezone.now() - timedelta(minutes=1)


def test_a_message_that_could_not_be_prepared_is_retried_as_if_it_were_new(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(state=State.HELD, reservations=4, troubled_since=Now() - timedelta(hours=2))

    outbox.retry(Message.objects.all(), reason="again")

    message.refresh_from_db()
    assert (message.reservations, message.troubled_since) == (0, None)


def pass_time(**time: float) -> None:
    """Make the waiting messages due earlier, as if this time had passed on the database's clock."""
    Message.objects.waiting().update(due_at=F("due_at") - timedelta(**time))


def test_a_delayed_message_can_be_cancelled(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user), delay=timedelta(seconds=30))
    pass_time(seconds=25)
    pipeline.deliver(message.pk)
    assert outbox.cancel(message, reason="undone")
    Message.objects.update(due_at=Now())
    pipeline.deliver(message.pk)
    assert pipeline.deliver_due(["default"]) == 0

    assert smtp.received == []


def test_a_message_due_in_weeks_waits_in_the_database(user: User, smtp: Sink, broker: redis.Redis) -> None:
    message = outbox.enqueue(Plain(user), delay=timedelta(weeks=3))
    for days in (0, 7, 13):  # 20 days in all
        pass_time(days=days)
        sweep.sweep()
        pipeline.deliver(message.pk)
    assert (broker.keys("default*"), smtp.received) == ([], [])

    pass_time(days=1, seconds=5)
    sweep.sweep()
    assert broker.llen("default") == 1
    pipeline.deliver(message.pk)

    assert len(smtp.received) == 1


def test_no_clock_but_the_databases_decides_when_a_message_is_due(user: User, smtp: Sink) -> None:
    later = outbox.enqueue(Plain(user), delay=timedelta(hours=1))
    with time_machine.travel(timezone.now() + timedelta(days=1)):  # this process is a day ahead
        now = outbox.enqueue(Plain(user))
        assert pipeline.deliver_due(["default"]) == 1

    now.refresh_from_db()
    later.refresh_from_db()
    assert (now.state, later.state) == (State.SENT, State.QUEUED)


def test_a_resent_message_is_new_and_names_the_old_one(user: User, smtp: Sink) -> None:
    first = outbox.enqueue(Plain(user, "a value"), key="welcome:1")
    pipeline.deliver(first.pk)

    second = outbox.resend(first)
    pipeline.deliver(second.pk)

    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state, second.resent_from) == (State.SENT, State.SENT, first)
    assert (second.arguments, second.key) == (first.arguments, "")
    assert len({received.parsed["Message-ID"] for received in smtp.received}) == 2


def test_a_message_about_a_deleted_row_cannot_be_resent(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    user.delete()

    with pytest.raises(ReferenceGone, match="no longer exists"):
        outbox.resend(message)
