"""The number of statements that a delivery costs."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline
from mailer.delivery.heartbeat import heartbeat
from mailer.models import Message, State
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)

RESERVE, OWN, CLAIM, SETTLE = ["UPDATE"], ["SELECT"], ["WITH"], ["BEGIN", "UPDATE", "UPDATE", "COMMIT"]
"""OWN is the user of this e-mail. SETTLE writes the outcome of the attempt and the state of the message."""


def statements(captured: CaptureQueriesContext) -> list[str]:
    return [query["sql"].split()[0] for query in captured.captured_queries]


def test_a_delivered_message_costs_few_short_statements_and_its_own(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    heartbeat.beat()

    with CaptureQueriesContext(connection) as captured:
        pipeline.deliver(message.pk)

    assert statements(captured) == [*RESERVE, *OWN, *CLAIM, *SETTLE]
    assert Message.objects.get().state == State.SENT


def test_a_task_that_finds_nothing_to_do_costs_one_statement(user: User, smtp: Sink) -> None:
    """Row 13 of issue 14."""
    message = outbox.enqueue(Plain(user))
    pipeline.deliver(message.pk)

    with CaptureQueriesContext(connection) as captured:
        pipeline.deliver(message.pk)

    assert statements(captured) == RESERVE
