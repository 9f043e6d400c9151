"""enqueue_many: all or none, in the caller's transaction, in little memory.

ROWS=100000 make test ARGS=tests/mailer/test_enqueue_many.py        # with 100,000 of them
"""

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline
from mailer.delivery.broker import KICK_TASK
from mailer.models import Message, State
from mailer.tasks import deliver_due
from tests.at_once import at_once
from tests.mailer.kinds import Bulletin, Plain
from tests.servers import Valkey
from tests.smtp_sink import Sink

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

READERS = int(os.environ.get("ROWS", "2000"))

USERS = """
INSERT INTO accounts_user (email, name, language, time_zone, password, is_superuser, is_staff, is_active, was_verified,
    email_verified_at, date_joined)
SELECT 'reader-' || n || '@example.com', 'Reader ' || n, 'en', '', 'x', false, false, true, true, now(), now()
FROM generate_series(%s, %s) AS n
"""


def mails(user: User, number: int) -> Iterator[Plain]:
    return (Plain(user, str(n)) for n in range(number))


def bulletins() -> Iterator[Bulletin]:
    return (Bulletin(user) for user in User.objects.iterator(chunk_size=outbox.BATCH))


def tasks(broker: redis.Redis) -> list[str]:
    return [json.loads(entry)["headers"]["task"] for entry in broker.lrange("default", 0, -1)]


def test_one_task_for_each_queue_delivers_them(user: User, smtp: Sink, broker: redis.Redis) -> None:
    with transaction.atomic():
        assert outbox.enqueue_many(mails(user, 5)) == 5
        assert tasks(broker) == []
    assert tasks(broker) == [KICK_TASK]  # a hundred thousand tasks would block other mail

    deliver_due("default")

    assert {message.state for message in Message.objects.all()} == {State.SENT}
    assert len({received.parsed["Message-ID"] for received in smtp.received}) == 5


def test_the_broker_may_be_away(user: User, smtp: Sink, broker: redis.Redis, valkey: Valkey) -> None:
    valkey.stop()
    try:
        assert outbox.enqueue_many(mails(user, 5)) == 5
    finally:
        valkey.start()

    assert pipeline.deliver_due(["default"]) == 5


def test_each_has_the_delay(user: User, broker: redis.Redis) -> None:
    outbox.enqueue_many(mails(user, 3), delay=timedelta(hours=1))

    assert tasks(broker) == []  # a countdown of an hour would outlast the broker's visibility timeout
    later = Message.objects.filter(first_due_at=F("due_at"), due_at__gt=Now() + timedelta(minutes=59))
    assert later.count() == 3
    assert pipeline.deliver_due(["default"]) == 0


def test_progress_is_reported_by_batch(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BATCH", 4)
    batches: list[int] = []

    assert outbox.enqueue_many(mails(user, 10), progress=batches.append) == 10
    assert batches == [4, 4, 2]
    assert outbox.enqueue_many([]) == 0


def test_a_generator_that_raises_enqueues_nothing_and_the_transaction_goes_on(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "BATCH", 2)

    def failing() -> Iterator[Plain]:
        yield from mails(user, 5)
        assert Message.objects.count() > 0
        raise LookupError("the list ended in the middle")

    with transaction.atomic():
        with pytest.raises(LookupError):
            outbox.enqueue_many(failing())
        outbox.enqueue(Plain(user, "the caller's own"))

    assert [message.arguments["sent_by"] for message in Message.objects.all()] == ["the caller's own"]


def test_a_mail_that_cannot_be_stored_enqueues_nothing(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BATCH", 2)

    with pytest.raises(TypeError, match="not saved"):
        outbox.enqueue_many([*mails(user, 5), Plain(User(email="new@example.com"))])
    with pytest.raises(ValueError, match="no transport 'pigeon'"):
        outbox.enqueue_many(mails(user, 5), using="pigeon")
    assert not Message.objects.exists()


def test_they_are_part_of_the_callers_transaction(user: User) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outbox.enqueue_many(mails(user, 5))
        assert at_once([Message.objects.count]) == ([0], [])  # other connections do not see them yet
        raise ZeroDivisionError
    assert not Message.objects.exists()

    with transaction.atomic():
        outbox.enqueue_many(mails(user, 5))
    assert Message.objects.count() == 5


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.dictionaries(TEXTS, TEXTS | NUMBERS | st.none() | st.lists(st.booleans()))
"""What PostgreSQL's JSON can hold; `enqueue` refuses the rest."""


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES | TEXTS, hours=st.integers(0, 5))
def test_a_row_is_the_same_as_that_of_a_single_one(user: User, value: Any, hours: int) -> None:
    Message.objects.all().delete()

    outbox.enqueue(Plain(user, value), delay=timedelta(hours=hours))
    outbox.enqueue_many([Plain(user, value)], delay=timedelta(hours=hours))

    rows: list[dict[str, Any]] = [{**row} for row in Message.objects.order_by("pk").values()]
    for row in rows:
        row["due_in"] = row["due_at"] - row["created_at"]
    one, other = rows
    for name in ("id", "message_id_header", "created_at", "due_at", "first_due_at"):
        assert one.pop(name) != other.pop(name)
    assert round((one.pop("due_in") - other.pop("due_in")).total_seconds()) == 0
    assert one == other


class Naive(Plain):
    """Its deadline has no zone, and is in the current one."""

    def expires_at(self) -> datetime:
        return datetime(2031, 1, 1, 12)  # noqa: DTZ001


@pytest.mark.filterwarnings("ignore:DateTimeField .* received a naive datetime:RuntimeWarning")
def test_a_deadline_without_a_zone_is_the_same_as_that_of_a_single_one(user: User, settings: Settings) -> None:
    settings.TIME_ZONE = "America/New_York"  # taken for UTC, it would pass five hours too early

    outbox.enqueue(Naive(user))
    outbox.enqueue_many([Naive(user)])

    one, other = Message.objects.order_by("pk").values_list("expires_at", flat=True)
    assert one == other


@pytest.mark.parametrize("enqueue", [outbox.enqueue, lambda mail: outbox.enqueue_many([mail])])
def test_a_row_of_another_model_is_not_taken_for_a_user(user: User, enqueue: Callable[[Plain], object]) -> None:
    group = Group.objects.create(pk=user.pk, name="a group")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TypeError, match="returned a Group"):
        patch.setattr(Plain, "user", lambda _: group)
        enqueue(Plain(user))
    assert not Message.objects.exists()


def test_a_thousand_cost_two_statements(user: User) -> None:
    with CaptureQueriesContext(connection) as captured:
        outbox.enqueue_many(mails(user, 2000))

    verbs = [query["sql"].split()[0] for query in captured.captured_queries]
    assert verbs == ["BEGIN", "SELECT", "COPY", "SELECT", "COPY", "COMMIT"]


def test_memory_does_not_grow_with_the_number() -> None:
    peaks = {}
    for before, readers in ((0, outbox.BATCH), (outbox.BATCH, READERS)):
        with connection.cursor() as cursor:
            cursor.execute(USERS, [before + 1, readers])
        tracemalloc.start()
        try:
            assert outbox.enqueue_many(bulletins()) == readers
            _, peaks[readers] = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    few, many = peaks.values()
    assert many < 1.3 * few + 1e6
    assert Message.objects.filter(queue="bulk").count() == READERS + outbox.BATCH
