"""A growing table slows nothing down: no statement of a delivery reads the whole table.

ROWS=1000000 make test ARGS=tests/mailer/delivery/test_many_rows.py          # with a million rows
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from mailer import outbox
from mailer.delivery import explain, figures, pipeline, pulse, reserve, retention, sweep
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.housekeeping import PATIENCE
from mailer.models import Message, TransportState
from tests.mailer.kinds import Plain
from tests.mailer.worker import claim_row, die
from tests.smtp_sink import Sink

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

ROWS = int(os.environ.get("ROWS", "20000"))

SETTLED_ROWS = """
INSERT INTO mailer_message (kind, arguments, user_id, recipient, subject, message_id_header, queue, key, state, reason,
    attempts, counted_after, created_at, first_due_at, due_at, settled_at)
SELECT 'tests.Plain', jsonb_build_object('account', %(user)s), %(user)s, 'person-' || n || '@example.com', 'Test',
    '<old-' || n || '@example.com>', (ARRAY['critical', 'default', 'bulk'])[n %% 3 + 1], '', 'sent', '',
    1, 0, moment, moment, moment, moment
FROM (SELECT n, now() - n * interval '6 seconds' AS moment FROM generate_series(1, %(rows)s) AS n) AS many_settled
"""
ATTEMPTS = """
INSERT INTO mailer_deliveryattempt
    (message_id, number, transport, worker, started_at, finished_at, outcome, phase, code, response)
SELECT id, 1, 'transport', 'worker', created_at, created_at, 'accepted', 'dot', '250', '2.0.0 Ok' FROM mailer_message
"""


@pytest.fixture
def many_settled(user: User, broker: redis.Redis) -> None:
    """Many settled messages with their attempts, and a thousand that are due."""
    with connection.cursor() as cursor:
        cursor.execute(SETTLED_ROWS, {"user": user.pk, "rows": ROWS})
        cursor.execute(ATTEMPTS)
        outbox.enqueue_many(Plain(user, str(number)) for number in range(1000))
        cursor.execute("UPDATE mailer_message SET due_at = due_at - interval '1 minute' WHERE state = 'queued'")
        cursor.execute("VACUUM ANALYZE mailer_message, mailer_deliveryattempt")
    broker.flushall()


@contextmanager
def plans() -> Iterator[list[tuple[str, str, list[str]]]]:
    """Collect the statements that run inside, each with PostgreSQL's plan and the tables that it reads completely."""
    seen: list[tuple[str, str, list[str]]] = []

    def explain(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if "mailer_" in sql and not sql.startswith("EXPLAIN"):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
                [plan] = cursor.fetchone()[0]
            seen.append((sql, json.dumps(plan), list(_read_whole(plan["Plan"]))))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield seen


def _read_whole(node: dict[str, Any]) -> Iterator[str]:
    if node["Node Type"] == "Seq Scan":
        yield node["Relation Name"]
    for below in node.get("Plans", []):
        yield from _read_whole(below)


def test_no_statement_of_the_mails_path_reads_the_whole_table(many_settled: None, user: User, smtp: Sink) -> None:
    message = Message.objects.waiting().latest("pk")
    abandoned = Message.objects.waiting().earliest("pk")
    claim_row(abandoned)
    die()
    Message.objects.waiting().filter(pk=abandoned.pk + 1).update(expires_at=Now())
    TransportState.objects.create(alias="transport", rate=10.0)

    with plans() as seen:
        pipeline.deliver(message.pk)
        pipeline.deliver_due(["default"], seconds=0.1)
        smtp.script.once["RCPT"] = deque(["450 4.2.1 later", "450 4.7.1 slow down", "550 5.7.1 policy"])
        pipeline.deliver_due(["default"], seconds=0.5)
        heartbeat._first -= 60
        sweep.sweep()
        reserve.has_due(["default", "bulk"], ["", "transport"], PATIENCE)
        retention.purge()
        outbox.enqueue(Plain(user), key="one")
        Message.objects.all().age_of_oldest_due()

    assert len(seen) > 15
    for sql, plan, read_whole in seen:
        assert not {"mailer_message", "mailer_deliveryattempt"} & set(read_whole), f"{sql}\n{plan}"


def test_a_scrape_reads_the_backlog_and_the_last_hour_only(many_settled: None) -> None:
    with plans() as seen:
        figures.read()

    assert len(seen) >= 6
    for sql, plan, read_whole in seen:
        assert "mailer_message" not in read_whole, f"{sql}\n{plan}"


def test_the_sentences_of_many_rows_cost_few_statements(many_settled: None) -> None:
    heartbeat.queues = ["bulk"]
    heartbeat.beat()
    with CaptureQueriesContext(connection) as captured:
        found = explain.stuck(pulse.look(), Message.objects.all())

    assert list(found.values()) == [1000]
    assert len(captured) <= 8
