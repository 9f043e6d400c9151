"""A mail server that is down is paused and probed by one message at a time until it answers."""

from collections import deque
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import circuit, steps, sweep
from mailer.models import Message, Outcome, Queue, State, Suppression, TransportState
from tests.mailer.kinds import Fleeting, Plain
from tests.mailer.worker import deliver
from tests.smtp_sink import CUT, Sink

pytestmark = pytest.mark.django_db


def find_transport() -> steps.Transport | None:
    return circuit.find_transport("", circuit.pauses())


def end_pause() -> None:
    TransportState.objects.update(paused_until=timezone.now())


def pause() -> float:
    """Return the seconds until the pause ends."""
    until = TransportState.objects.get().paused_until
    assert until is not None
    return (until - timezone.now()).total_seconds()


@pytest.fixture
def down(smtp: Sink) -> Sink:
    """A mail server that refuses connections."""
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"
    return smtp


def test_a_paused_transport_gets_no_message_and_costs_no_attempt(user: User, down: Sink) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(5)]

    for message in messages * 3:
        deliver(message)

    assert down.connections == 1
    assert sum(m.attempts for m in messages) == 1
    assert all(m.publish_at <= timezone.now() for m in messages)  # they stay overdue for the sweep
    assert {m.state for m in messages} == {State.QUEUED, State.RETRYING}


def test_pauses_grow_with_each_probe_up_to_five_minutes(user: User, down: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    pauses = []
    for _ in range(8):
        deliver(message)
        pauses.append(pause())
        end_pause()

    assert 4 <= pauses[0] <= 10
    assert 8 <= pauses[1] <= 20
    assert 149 <= pauses[7] <= 300
    assert TransportState.objects.get().failures == 8
    assert message.state == State.RETRYING


def test_one_message_probes_while_the_others_wait(user: User, down: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    end_pause()
    transport = find_transport()
    assert transport
    assert transport.probing

    assert [circuit.begin_probe(transport), circuit.begin_probe(transport)] == [True, False]
    assert find_transport() is None


def test_a_transport_that_answers_again_gets_the_backlog_at_once(user: User, down: Sink) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(4)]
    for message in messages:
        deliver(message)
    del down.script.always["CONNECT"]
    end_pause()

    assert deliver(messages[0]).state == State.SENT

    assert TransportState.objects.get().paused_until is None
    assert Message.objects.overdue(Queue.DEFAULT, timezone.now()).count() == 3
    assert [deliver(m).state for m in messages[1:]] == [State.SENT] * 3


def test_a_refusal_of_the_message_shows_that_the_server_works(user: User, down: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    end_pause()
    del down.script.always["CONNECT"]
    down.script.once["RCPT"] = deque(["550 5.7.1 not you"])

    assert deliver(outbox.enqueue(Plain(user))).state == State.FAILED
    assert TransportState.objects.get().paused_until is None


def test_the_sweep_publishes_one_probe_after_the_pause(user: User, down: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[int] = []

    def publish(message: Message) -> bool:
        published.append(message.pk)
        return True

    monkeypatch.setattr(sweep, "publish", publish)
    deliver(outbox.enqueue(Plain(user)))
    for _ in range(3):
        outbox.enqueue(Plain(user))
    Message.objects.update(publish_at=timezone.now())

    assert sweep.publish_overdue() == 0
    end_pause()
    assert sweep.publish_overdue() == 1
    assert len(published) == 1


def test_the_fallback_takes_all_mail_while_the_primary_is_paused(user: User, sink: Sink, settings: Settings) -> None:
    settings.MAILERS = {"transport": email_url("smtp://127.0.0.1:1"), "fallback": email_url(sink.url)}
    first, second = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    deliver(first)

    assert [deliver(first).state, deliver(second).state] == [State.SENT, State.SENT]
    assert list(first.delivery_attempts.values_list("transport", "outcome")) == [
        ("transport", Outcome.TRANSPORT_DOWN),
        ("fallback", Outcome.ACCEPTED),
    ]
    assert list(second.delivery_attempts.values_list("transport", flat=True)) == ["fallback"]


def test_an_uncertain_outcome_does_not_pause_the_transport(user: User, smtp: Sink) -> None:
    smtp.script.once["BODY"] = deque([CUT])

    deliver(outbox.enqueue(Plain(user)))

    assert not TransportState.objects.exclude(paused_until=None).exists()


def test_a_probe_whose_worker_died_is_repeated_after_a_lease(user: User, down: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    end_pause()
    transport = find_transport()
    assert transport
    assert circuit.begin_probe(transport)

    assert 59 < pause() <= 60
    TransportState.objects.update(paused_until=timezone.now() - timedelta(seconds=1))
    again = find_transport()
    assert again
    assert circuit.begin_probe(again)


class SlowToBuild(Plain):
    """Another message probes the transport while this one is built."""

    other: ClassVar[Message]

    def is_wanted(self) -> bool:
        deliver(self.other)
        return True


def test_a_worker_that_comes_second_does_not_probe(user: User, down: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowToBuild, "other", outbox.enqueue(Plain(user)), raising=False)
    TransportState.objects.create(alias="transport", failures=1, paused_until=timezone.now())

    message = deliver(outbox.enqueue(SlowToBuild(user)))

    assert (down.connections, SlowToBuild.other.attempts) == (1, 1)
    assert (message.state, message.attempts) == (State.QUEUED, 0)


@pytest.mark.django_db(transaction=True)
def test_a_probe_counts_once_when_its_outcome_is_written_twice(
    user: User, down: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    TransportState.objects.create(alias="transport", failures=1, paused_until=timezone.now())
    lost: list[str] = []

    def lose_once(execute: Any, sql: str, *rest: Any) -> Any:
        if "deliveryattempt" in sql and sql.startswith("UPDATE") and not lost:
            lost.append(sql)
            raise OperationalError("the connection is lost")
        return execute(sql, *rest)

    monkeypatch.setattr("mailer.delivery.settle.PAUSE", 0)
    message = outbox.enqueue(Plain(user))
    with connection.execute_wrapper(lose_once):
        deliver(message)

    assert (len(lost), message.delivery_attempts.get().outcome) == (1, Outcome.TRANSPORT_DOWN)
    assert TransportState.objects.get().failures == 2


def one_sweep(rows: list[Message]) -> list[Message]:
    """Run a sweep and deliver what it published."""
    before = {row.pk: row.publish_at for row in Message.objects.waiting()}
    sweep.publish_overdue()
    after = dict(Message.objects.values_list("pk", "publish_at"))
    return [deliver(row) for row in rows if row.pk in before and after[row.pk] != before[row.pk]]


@pytest.mark.usefixtures("broker")
def test_messages_that_will_not_be_sent_do_not_use_up_probes(user: User, smtp: Sink, make_user: Any) -> None:
    dead = make_user("dead@example.com")
    Suppression.objects.create(address=dead.email, reason="gone")
    rows = [outbox.enqueue(Plain(dead)), outbox.enqueue(Fleeting(user)), outbox.enqueue(Plain(user))]
    for number, row in enumerate(rows):
        Message.objects.filter(pk=row.pk).update(publish_at=timezone.now() - timedelta(seconds=10 - number))
    TransportState.objects.create(alias="transport", failures=3, paused_until=timezone.now() - timedelta(seconds=1))

    published = [row for _ in range(2) for row in one_sweep(rows)]

    assert published == rows
    assert [row.state for row in rows] == [State.SUPPRESSED, State.EXPIRED, State.SENT]
    assert not circuit.pauses()


@pytest.mark.usefixtures("broker")
def test_an_expired_message_does_not_wait_for_its_transport(user: User) -> None:
    row = outbox.enqueue(Fleeting(user))
    Message.objects.update(publish_at=timezone.now())
    TransportState.objects.create(alias="transport", failures=3, paused_until=timezone.now() + timedelta(hours=1))

    assert [message.state for message in one_sweep([row])] == [State.EXPIRED]
