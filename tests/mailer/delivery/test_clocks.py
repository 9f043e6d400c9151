"""A worker whose clock is wrong decides, stores and expires the same as any other: there is one clock, the database's.

Rows 10, 11 and 13 of issue 14.
"""

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db.models import DateTimeField
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.delivery import circuit, pipeline, retention, sweep
from mailer.delivery.claim import LEASE
from mailer.models import Circuit, DeliveryAttempt, Message, Outcome, State, TransportState, Worker
from tests.mailer.kinds import Plain, Raising
from tests.mailer.worker import claim_row, die
from tests.smtp_sink import CUT, Sink

pytestmark = pytest.mark.django_db

TABLES = (Message, DeliveryAttempt, Circuit, TransportState, Worker)


class ForHalfAnHour(Plain):
    """It is useful for half an hour."""

    def expires_at(self) -> datetime:
        return timezone.now() + timedelta(minutes=30)


class UnbuiltForHalfAnHour(ForHalfAnHour, Raising):
    """The same, but it cannot be built yet."""


@pytest.fixture(
    params=[timedelta(days=1), timedelta(hours=1), timedelta(hours=-1), timedelta(days=-1)],
    ids=["a day ahead", "an hour ahead", "an hour behind", "a day behind"],
)
def wrong_clock(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """The clock of the worker's process, to be entered around what it does."""
    return lambda: time_machine.travel(datetime.now().astimezone() + request.param)


def assert_stored_times_are_true() -> None:
    """Check every stored time of every table: none is further away than any pause, deadline or lease can be."""
    for model in TABLES:
        for field in model._meta.fields:
            if isinstance(field, DateTimeField):
                for moment in model._default_manager.exclude(**{field.name: None}).values_list(field.name, flat=True):
                    seconds = (moment - timezone.now()).total_seconds()
                    assert -60 < seconds < LEASE.total_seconds() + 60, f"{model.__name__}.{field.name}"


def test_a_mail_is_sent_at_its_time(user: User, smtp: Sink, wrong_clock: Callable[[], Any]) -> None:
    now, later = outbox.enqueue(ForHalfAnHour(user)), outbox.enqueue(ForHalfAnHour(user), delay=timedelta(minutes=20))

    with wrong_clock():
        assert [pipeline.deliver(each.pk) for each in (now, later)] == [
            "sent 250",
            "nothing to do: it is not due, or another worker has it",
        ]
        assert sweep.expire_overdue() == 0

    states = list(Message.objects.order_by("pk").values_list("state", flat=True))
    assert states == [State.SENT, State.QUEUED]
    assert_stored_times_are_true()


def test_kicks_take_what_is_due_and_no_more(user: User, smtp: Sink, wrong_clock: Callable[[], Any]) -> None:
    """Row 13: the tasks of a worker whose clock is behind were swallowed."""
    for _ in range(5):
        outbox.enqueue(ForHalfAnHour(user))
        outbox.enqueue(ForHalfAnHour(user), delay=timedelta(minutes=20))

    with wrong_clock():
        assert pipeline.deliver_due(["default"]) == 5
        assert pipeline.deliver_due(["default"]) == 0

    assert len(smtp.received) == 5
    assert_stored_times_are_true()


def test_refusals_pauses_and_troubles_have_the_databases_time(
    user: User, smtp: Sink, wrong_clock: Callable[[], Any]
) -> None:
    """Row 10: a transport was paused for a day."""
    refused, full, unbuilt = (
        outbox.enqueue(kind(user)) for kind in (ForHalfAnHour, ForHalfAnHour, UnbuiltForHalfAnHour)
    )
    smtp.script.once["RCPT"] = deque(["450 4.2.1 later", "451 4.3.0 disk full"])

    with wrong_clock():
        for each in (unbuilt, refused, full):
            pipeline.deliver(each.pk)

    [refused, full, unbuilt] = Message.objects.order_by("pk")
    assert [each.state for each in (refused, full, unbuilt)] == [State.RETRYING, State.RETRYING, State.QUEUED]
    for until in (refused.due_at, unbuilt.due_at, Circuit.objects.exclude(paused_until=None).get().paused_until):
        assert until
        assert 4 <= (until - timezone.now()).total_seconds() <= 11
    assert_stored_times_are_true()


def test_a_pause_ends_at_its_time(user: User, smtp: Sink, wrong_clock: Callable[[], Any]) -> None:
    smtp.script.once["CONNECT"] = deque([CUT])
    message = outbox.enqueue(ForHalfAnHour(user))
    pipeline.deliver(message.pk)
    with wrong_clock():
        assert circuit.open_routes() == []
        Circuit.objects.update(paused_until=timezone.now().astimezone().replace(year=2020))
        assert pipeline.deliver(message.pk) == "sent 250"


def test_nothing_that_is_useful_expires_and_nothing_that_is_not_is_sent(
    user: User, smtp: Sink, wrong_clock: Callable[[], Any]
) -> None:
    """Row 11: mail that was not late expired."""
    useful, useless, swept = (outbox.enqueue(ForHalfAnHour(user)) for _ in range(3))
    gone = timezone.now() - timedelta(seconds=1)
    Message.objects.filter(pk__in=[useless.pk, swept.pk]).update(expires_at=gone)

    with wrong_clock():
        said = [pipeline.deliver(each.pk) for each in (useful, useless)]
        assert sweep.expire_overdue() == 1

    assert said == ["sent 250", "expired"]
    assert len(smtp.received) == 1
    assert_stored_times_are_true()


def test_only_silent_workers_are_silent(user: User, smtp: Sink, wrong_clock: Callable[[], Any]) -> None:
    message = outbox.enqueue(ForHalfAnHour(user))
    with wrong_clock():
        claim_row(message)
    assert sweep.settle_claims_of_dead_workers() == 0
    with wrong_clock():
        assert sweep.settle_claims_of_dead_workers() == 0
        assert Worker.objects.alive().count() == 1
        die()
        assert sweep.settle_claims_of_dead_workers() == 1
    assert list(message.delivery_attempts.values_list("outcome", flat=True)) == [Outcome.UNCERTAIN]
    assert_stored_times_are_true()


def test_nothing_is_purged_too_early(user: User, smtp: Sink, wrong_clock: Callable[[], Any]) -> None:
    message = outbox.enqueue(Plain(user))
    pipeline.deliver(message.pk)
    Message.objects.update(settled_at=timezone.now() - timedelta(days=89, hours=12))

    with wrong_clock():
        assert retention.purge() == 0
    Message.objects.update(settled_at=timezone.now() - timedelta(days=90, hours=12))
    with wrong_clock():
        assert retention.purge() == 1
