"""The number of statements that a delivery costs."""

from collections import Counter

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

RESERVE, OWN, CLAIM, SETTLE = ["reserve"], ["SELECT"], ["claim"], ["settle"]
"""OWN is the user of this e-mail. SETTLE writes the outcome of the attempt and the state of the message."""
NAMES = {"WITH candidate": "reserve", "WITH claimed": "claim", "WITH attempt": "settle"}


def statements(captured: CaptureQueriesContext) -> list[str]:
    """Return the name or the first word of each statement. The hot ones are shown with their parameters beside them."""
    found = []
    for query in captured.captured_queries:
        sql = query["sql"].replace("\\n", " ")
        found.append(next((name for start, name in NAMES.items() if start in sql), sql.split()[0]))
    return found


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


def test_a_backlog_costs_two_statements_for_each_mail_and_a_few_for_each_batch(user: User, smtp: Sink) -> None:
    """Issue 16. Reserved and loaded together, claimed and settled one by one."""
    number = 3 * pipeline.MOST
    users = User.objects.bulk_create(User(email=f"ann{each}@example.com", password="!") for each in range(number))
    outbox.enqueue_many(Plain(each) for each in users)
    heartbeat.beat()

    with CaptureQueriesContext(connection) as captured, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "TURN", 60.0)  # whatever the machine is doing
        assert pipeline.deliver_due(["default"], seconds=60) == number

    counted = Counter(statements(captured))
    assert (counted.pop("claim"), counted.pop("settle")) == (number, number)
    assert counted.pop("INSERT", 0) < 10  # heartbeats, by the clock
    assert counted.total() <= 24, counted


def test_a_connection_parses_the_hot_statements_once(user: User, smtp: Sink) -> None:
    outbox.enqueue_many(Plain(user) for _ in range(20))

    assert pipeline.deliver_due(["default"]) == 20

    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        prepared = Counter(next((n for start, n in NAMES.items() if start in sql), sql) for (sql,) in cursor.fetchall())
    assert set(prepared) == {"claim", "settle"}
    assert prepared.total() <= 4  # one for each width of the ids
