"""What a task returns is a sentence for Flower."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from celery import current_app
from django.db import OperationalError, transaction
from django.db.models.functions import Now
from structlog.testing import capture_logs

from accounts.models import User
from mailer import outbox, tasks
from mailer.checks.settings import check_settings
from mailer.delivery import broker as publishing
from mailer.delivery import pipeline
from mailer.feedback import events
from mailer.models import Circuit, Message, State
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]


def test_tasks_say_what_happened(user: User, smtp: Sink) -> None:
    message, _ = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))

    assert tasks.deliver_message(message.pk) == "sent 250"
    assert tasks.deliver_message(message.pk) == "nothing to do: it is not due, or another worker has it"
    assert tasks.deliver_due("default") == "1 messages tried"
    assert tasks.deliver_due("default") == "nothing is due"
    assert tasks.call_receivers([message.pk]) == "receivers called for 1 messages"
    assert tasks.purge() == "0 messages deleted"


def test_a_worker_that_is_behind_with_its_tasks_goes_on_in_batches(user: User, smtp: Sink) -> None:
    """Each mail has a task of its own. The first one of many that are late delivers the others too."""
    messages = [outbox.enqueue(Plain(user)) for _ in range(5)]
    Message.objects.update(due_at=Now() - pipeline.LATE)

    assert tasks.deliver_message(messages[3].pk) == "sent 250"
    assert set(Message.objects.values_list("state", flat=True)) == {State.SENT}
    assert {tasks.deliver_message(each.pk) for each in messages} == {
        "nothing to do: it is not due, or another worker has it"
    }


@pytest.fixture
def eager() -> Iterator[None]:
    current_app.conf.task_always_eager = True
    yield
    current_app.conf.task_always_eager = False


def test_with_eager_tasks_the_process_that_commits_delivers(user: User, smtp: Sink, eager: None) -> None:
    with transaction.atomic():
        for _ in range(5):
            outbox.enqueue(Plain(user))
    outbox.enqueue_many(Plain(user) for _ in range(3))
    later = outbox.enqueue(Plain(user), delay=timedelta(seconds=5))

    assert Counter(Message.objects.exclude(pk=later.pk).values_list("state", flat=True)) == {State.SENT: 8}
    assert Message.objects.get(pk=later.pk).state == State.QUEUED
    assert "mailer.W007" in [message.id for message in check_settings(None)]


def test_with_eager_tasks_a_refusal_is_no_error_of_the_caller(user: User, smtp: Sink, eager: None) -> None:
    with smtp.away(), capture_logs() as logged:
        message = outbox.enqueue(Plain(user))

    message.refresh_from_db()
    assert message.state != State.SENT
    assert not [line for line in logged if line["log_level"] in ("error", "critical")]


def test_reports_wait_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> int:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(events, "apply_due", lose)
    assert tasks.apply_events(1) == "database away"


def test_reports_overtake_no_urgent_mail(broker: redis.Redis) -> None:
    publishing.publish_events(3)
    assert (broker.llen("default"), broker.llen("bulk")) == (0, 1)


def test_tasks_say_when_a_paused_transport_is_probed(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    circuit = Circuit.objects.create(transport="transport", paused_until=Now() + timedelta(minutes=5))
    circuit.refresh_from_db()
    paused = f"transport paused, next probe {circuit.paused_until:%H:%M:%S} UTC"

    assert tasks.deliver_message(message.pk) == f"waits: {paused}"
    assert tasks.deliver_due("default") == paused


@pytest.mark.django_db
def test_eager_tasks_deliver_inside_a_test_case_too(
    user: User, smtp: Sink, eager: None, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        message = outbox.enqueue(Plain(user))

    message.refresh_from_db()
    assert message.state == State.SENT
