"""Messages pinned to one transport, beside messages on the default route."""

import base64
import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from django.db.models.functions import Now
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import pipeline, sweep
from mailer.models import Circuit, Message, State, TransportState
from tests.mailer.kinds import Fleeting, Plain
from tests.mailer.worker import deliver
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


@pytest.fixture
def second(smtp: Sink, settings: Settings) -> Iterator[Sink]:
    """A second mail server, for `using="second"`."""
    with Sink() as sink:
        settings.MAILERS = {**settings.MAILERS, "second": email_url(sink.url)}
        yield sink


@pytest.fixture
def down(second: Sink) -> Sink:
    second.script.always["CONNECT"] = "421 4.3.2 closed"
    return second


def make_overdue() -> None:
    Message.objects.waiting().update(due_at=Now() - timedelta(seconds=10))


def end_pauses() -> None:
    Circuit.objects.exclude(paused_until=None).update(paused_until=Now())


def kicked(broker: redis.Redis) -> list[str]:
    """Run a sweep on an empty broker. Return the queues that it kicked."""
    broker.flushall()
    sweep.kick_queues()
    tasks = [json.loads(task) for task in broker.lrange("default", 0, -1)]
    return [json.loads(base64.b64decode(task["body"]))[0][0] for task in tasks]


def deliver_due() -> int:
    """Deliver what is due, as a task does after the sweep."""
    return pipeline.deliver_due(["default"])


def test_each_message_takes_its_route(user: User, smtp: Sink, second: Sink) -> None:
    usual, pinned = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user), using="second")

    assert deliver(usual).state == deliver(pinned).state == State.SENT

    assert [r.parsed["Message-ID"] for r in smtp.received] == [usual.message_id_header]
    assert [r.parsed["Message-ID"] for r in second.received] == [pinned.message_id_header]


def test_enqueue_many_takes_a_route(user: User, smtp: Sink, second: Sink) -> None:
    assert outbox.enqueue_many([Plain(user)] * 3, using="second") == 3

    assert set(Message.objects.values_list("transport", flat=True)) == {"second"}


@pytest.mark.parametrize("wrong", ["no_such", "default"])
def test_an_unknown_alias_or_an_outbox_is_refused(wrong: str, user: User, second: Sink) -> None:
    with pytest.raises(ValueError, match=f"MAILERS has no transport '{wrong}'; it has transport, second"):
        outbox.enqueue(Plain(user), using=wrong)


def test_a_transport_that_is_down_does_not_block_other_routes(
    user: User, smtp: Sink, down: Sink, broker: redis.Redis
) -> None:
    pinned = [outbox.enqueue(Plain(user), using="second") for _ in range(2)]
    deliver(pinned[0])
    usual = outbox.enqueue(Plain(user))
    make_overdue()

    assert kicked(broker) == ["default"]
    deliver_due()

    assert down.connections == 1
    usual.refresh_from_db()
    assert usual.state == State.SENT
    make_overdue()
    assert kicked(broker) == []  # until the end of the pause there is nothing to do


def test_a_default_route_that_is_down_does_not_block_pinned_messages(
    user: User, smtp: Sink, second: Sink, broker: redis.Redis
) -> None:
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"
    usual = [outbox.enqueue(Plain(user)) for _ in range(3)]
    deliver(usual[0])
    pinned = outbox.enqueue(Plain(user), using="second")
    make_overdue()

    assert kicked(broker) == ["default"]
    deliver_due()

    pinned.refresh_from_db()
    assert pinned.state == State.SENT
    assert smtp.connections == 1


def test_a_route_that_waits_for_its_rate_limit_does_not_block_other_routes(
    user: User, smtp: Sink, second: Sink
) -> None:
    TransportState.objects.create(alias="transport", rate=0.01, slot_at=Now() + timedelta(minutes=1))
    usual = [outbox.enqueue(Plain(user)) for _ in range(3)]
    pinned = [outbox.enqueue(Plain(user), using="second") for _ in range(3)]
    make_overdue()

    pipeline.deliver_due(["default"], seconds=1)

    assert (len(smtp.received), len(second.received)) == (0, len(pinned))
    assert Message.objects.due().count() == len(usual)


def test_one_pinned_message_probes_its_transport(user: User, smtp: Sink, down: Sink, broker: redis.Redis) -> None:
    pinned = [outbox.enqueue(Plain(user), using="second") for _ in range(4)]
    deliver(pinned[0])
    make_overdue()
    end_pauses()

    assert kicked(broker) == ["default"]
    connections = down.connections
    deliver_due()
    for message in pinned:  # even if all of them have a task
        deliver(message)
    assert down.connections == connections + 1

    down.script.always.clear()
    end_pauses()
    deliver_due()
    assert set(Message.objects.values_list("state", flat=True)) == {State.SENT}


def test_two_routes_with_one_transport_probe_it_once(user: User, smtp: Sink, broker: redis.Redis) -> None:
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"
    usual, pinned = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user), using="transport")
    deliver(usual)
    end_pauses()

    deliver(pinned)
    deliver(usual)

    assert smtp.connections == 2


def test_the_fallback_takes_no_pinned_message(user: User, sink: Sink, settings: Settings) -> None:
    settings.MAILERS = {"transport": email_url("smtp://127.0.0.1:1"), "fallback": email_url(sink.url)}
    pinned, usual = outbox.enqueue(Plain(user), using="transport"), outbox.enqueue(Plain(user))

    for _ in range(2):
        deliver(pinned)
    assert (pinned.state, pinned.attempts) == (State.QUEUED, 0)
    assert deliver(usual).state == State.SENT


def test_a_message_with_an_unknown_route_waits_for_newer_code(
    user: User, smtp: Sink, second: Sink, settings: Settings, broker: redis.Redis
) -> None:
    known = settings.MAILERS
    pinned, usual = outbox.enqueue(Plain(user), using="second"), outbox.enqueue(Plain(user))
    settings.MAILERS = {alias: mailer for alias, mailer in known.items() if alias != "second"}

    with capture_logs() as lines:
        assert deliver(pinned).state == State.QUEUED
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("not prepared; tried again", "MAILERS has no 'second' in this release")
    ]
    assert deliver(usual).state == State.SENT
    make_overdue()
    assert kicked(broker) == []  # workers of this release could do nothing
    with pytest.raises(ValueError, match="no transport 'second'"):
        outbox.resend(pinned)

    settings.MAILERS = known
    assert kicked(broker) == ["default"]
    assert deliver(pinned).state == State.SENT


def test_a_route_that_became_an_outbox_is_not_taken(user: User, smtp: Sink, second: Sink, settings: Settings) -> None:
    pinned = outbox.enqueue(Plain(user), using="second")
    settings.MAILERS = {**settings.MAILERS, "second": {"BACKEND": "mailer.backend.OutboxBackend"}}

    assert deliver(pinned).state == State.QUEUED
    assert Message.objects.count() == 1


def test_a_project_may_have_no_default_route(user: User, second: Sink, settings: Settings, broker: redis.Redis) -> None:
    pinned = outbox.enqueue(Plain(user), using="second")
    settings.MAILERS = {alias: mailer for alias, mailer in settings.MAILERS.items() if alias == "second"}
    make_overdue()

    assert kicked(broker) == ["default"]
    deliver_due()
    pinned.refresh_from_db()
    assert pinned.state == State.SENT


def test_a_message_without_a_transport_expires(user: User) -> None:
    message = outbox.enqueue(Fleeting(user))
    Message.objects.update(transport="gone")

    assert deliver(message).state == State.EXPIRED
