"""Messages pinned to one transport, beside messages on the default route."""

import base64
import json
from collections.abc import Iterator

import pytest
import redis
from django.utils import timezone
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import sweep
from mailer.models import Message, State, TransportState
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
    Message.objects.waiting().update(due_at=timezone.now(), publish_at=timezone.now())


def published(broker: redis.Redis) -> list[int]:
    """Return the ids of the messages with a task in the broker, and empty it."""
    tasks = [json.loads(task) for queue in broker.scan_iter("default*") for task in broker.lrange(queue, 0, -1)]
    broker.flushall()
    return sorted(json.loads(base64.b64decode(task["body"]))[0][0] for task in tasks)


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
    first, other = (outbox.enqueue(Plain(user), using="second") for _ in range(2))
    assert deliver(first).state == State.RETRYING
    usual = outbox.enqueue(Plain(user))
    make_overdue()

    for _ in range(3):  # several sweeps, without a loop of tasks
        sweep.publish_overdue()
        assert published(broker) in ([usual.pk], [])
        deliver(first), deliver(other)
    assert deliver(usual).state == State.SENT

    assert (down.connections, other.attempts) == (1, 0)


def test_a_default_route_that_is_down_does_not_block_pinned_messages(
    user: User, smtp: Sink, second: Sink, broker: redis.Redis
) -> None:
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"
    assert deliver(outbox.enqueue(Plain(user))).state == State.RETRYING
    pinned = outbox.enqueue(Plain(user), using="second")
    make_overdue()

    assert sweep.publish_overdue() == 1
    assert published(broker) == [pinned.pk]
    assert deliver(pinned).state == State.SENT


def test_one_pinned_message_probes_its_transport(user: User, smtp: Sink, down: Sink, broker: redis.Redis) -> None:
    pinned = [outbox.enqueue(Plain(user), using="second") for _ in range(4)]
    deliver(pinned[0])
    make_overdue()
    TransportState.objects.update(paused_until=timezone.now())

    assert sweep.publish_overdue() == 1
    [probe] = published(broker)
    assert probe in {message.pk for message in pinned}

    connections = down.connections
    for message in pinned:  # even if all of them have a task
        deliver(message)
    assert down.connections == connections + 1

    down.script.always.clear()
    TransportState.objects.update(paused_until=timezone.now())
    deliver(pinned[3])
    assert sweep.publish_overdue() == 3


def test_two_routes_with_one_transport_probe_it_once(user: User, smtp: Sink, broker: redis.Redis) -> None:
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"
    usual, pinned = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user), using="transport")
    deliver(usual)
    TransportState.objects.update(paused_until=timezone.now())

    deliver(pinned)
    deliver(usual)

    assert smtp.connections == 2


def test_the_fallback_takes_no_pinned_message(user: User, sink: Sink, settings: Settings) -> None:
    settings.MAILERS = {"transport": email_url("smtp://127.0.0.1:1"), "fallback": email_url(sink.url)}
    pinned, usual = outbox.enqueue(Plain(user), using="transport"), outbox.enqueue(Plain(user))

    for _ in range(2):
        deliver(pinned)
    assert (pinned.state, pinned.attempts) == (State.RETRYING, 1)
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
        ("not delivered; waits for a newer release's worker", "MAILERS has no 'second' in this release")
    ]
    make_overdue()
    assert sweep.publish_overdue() == 2
    assert published(broker) == sorted([pinned.pk, usual.pk])
    assert sweep.publish_overdue() == 0  # not again so soon
    with pytest.raises(ValueError, match="no transport 'second'"):
        outbox.resend(pinned)

    settings.MAILERS = known
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

    assert sweep.publish_overdue() == 1
    assert published(broker) == [pinned.pk]


def test_a_message_without_a_transport_expires(user: User) -> None:
    message = outbox.enqueue(Fleeting(user))
    Message.objects.update(transport="gone")

    assert deliver(message).state == State.EXPIRED
