"""What a task returns is a sentence for Flower."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox, tasks
from mailer.delivery import pipeline
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


def test_tasks_say_when_a_paused_transport_is_probed(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    circuit = Circuit.objects.create(transport="transport", paused_until=Now() + timedelta(minutes=5))
    circuit.refresh_from_db()
    paused = f"transport paused, next probe {circuit.paused_until:%H:%M:%S} UTC"

    assert tasks.deliver_message(message.pk) == f"waits: {paused}"
    assert tasks.deliver_due("default") == paused
