"""A transport that cannot be used is paused and probed by one message at a time, as each host sees it."""

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.db import OperationalError, connection
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import circuit, pipeline, sweep
from mailer.delivery.heartbeat import heartbeat
from mailer.models import Circuit, DeliveryAttempt, Message, Outcome, State, Suppression
from mailer.transports import connections
from tests.mailer.kinds import Fleeting, Plain
from tests.mailer.worker import another_host, deliver, make_due
from tests.smtp_sink import CUT, Sink

pytestmark = pytest.mark.django_db

DOWN = "421 4.3.2 closed"


def find_transport() -> circuit.Transport | None:
    return circuit.find_transport("", circuit.paused())


def is_open() -> bool:
    """Return whether this host may use the transport now."""
    return bool(circuit.open_routes())


def end_pause() -> None:
    Circuit.objects.exclude(paused_until=None).update(paused_until=Now())


def pause(host: str | None = None) -> float:
    """Return the seconds until the pause ends."""
    until = Circuit.objects.get(host=heartbeat.host if host is None else host).paused_until
    assert until is not None
    return (until - timezone.now()).total_seconds()


def paused_for() -> set[str]:
    return set(Circuit.objects.exclude(paused_until=None).values_list("host", flat=True))


@pytest.fixture
def down(smtp: Sink) -> Sink:
    """A mail server that refuses connections."""
    smtp.script.always["CONNECT"] = DOWN
    return smtp


def test_a_paused_transport_gets_no_message_and_costs_no_attempt(user: User, down: Sink) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(5)]

    for message in messages * 3:
        deliver(message)

    assert down.connections == 1
    assert {(m.state, m.attempts, m.worker) for m in messages} == {(State.QUEUED, 0, None)}
    assert Message.objects.due().count() == 5  # as soon as the pause ends


def test_pauses_before_mail_grow_up_to_eight_seconds(user: User, down: Sink) -> None:
    message, pauses = outbox.enqueue(Plain(user)), []
    for _ in range(8):
        deliver(message)
        pauses.append(pause())
        end_pause()

    assert all(3.9 <= each <= 8 for each in pauses)
    assert Circuit.objects.get().failures == 8
    assert (message.state, message.attempts) == (State.QUEUED, 0)


def test_pauses_after_mail_grow_up_to_a_minute(user: User, smtp: Sink) -> None:
    """Row 39 of issue 14."""
    smtp.script.always["MAIL"] = "452 4.3.1 disk full"
    message, pauses = outbox.enqueue(Plain(user)), []
    for _ in range(6):
        assert deliver(message).state == State.RETRYING
        pauses.append(pause(circuit.ALL))
        end_pause()

    assert 4 <= pauses[0] <= 10
    assert 29 <= pauses[5] <= 60
    assert set(message.delivery_attempts.values_list("outcome", flat=True)) == {Outcome.TRANSPORT_DOWN}
    assert Message.objects.due().count() == 1  # what is not its fault leaves it due


def test_a_refused_login_pauses_for_long_and_needs_a_person(
    user: User, through: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with Sink(user="shop", password="right") as sink:
        through(f"smtp://shop:wrong@127.0.0.1:{sink.port}")
        message, pauses = outbox.enqueue(Plain(user)), []
        for _ in range(9):
            deliver(message)
            pauses.append(pause(circuit.ALL))
            end_pause()

    assert 29 <= pauses[0] <= 60
    assert 7600 <= pauses[8] <= 15_360  # each log-in that fails may lock the account for longer
    assert Circuit.objects.get().needs_person
    assert sum("transport paused" in r.getMessage() for r in caplog.records if r.levelname == "ERROR") == 9


def test_one_message_probes_while_the_others_wait(user: User, down: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    end_pause()
    first, second = find_transport(), find_transport()
    assert first
    assert second

    with circuit.probing(first) as mine, circuit.probing(second) as theirs:
        assert (mine, theirs) == (True, False)
        assert find_transport() is None
    assert find_transport()  # the probe was not used, so another message may


def test_a_transport_that_answers_again_gets_the_backlog_at_once(user: User, down: Sink) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(4)]
    for message in messages:
        deliver(message)
    del down.script.always["CONNECT"]
    end_pause()

    assert pipeline.deliver_due(["default"]) == 4

    assert not paused_for()
    assert len(down.received) == 4


def test_a_refusal_of_the_message_shows_that_the_server_works(user: User, down: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    end_pause()
    del down.script.always["CONNECT"]
    down.script.once["RCPT"] = deque(["550 5.1.1 no such user"])

    assert deliver(outbox.enqueue(Plain(user))).state == State.FAILED
    assert not paused_for()


def test_the_sweep_kicks_no_queue_whose_mail_is_paused(user: User, down: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    kicked: list[str] = []

    def kick(queue: str) -> bool:
        kicked.append(queue)
        return True

    monkeypatch.setattr("mailer.delivery.broker.kick_if_idle", kick)
    for _ in range(4):
        deliver(outbox.enqueue(Plain(user)))
    Message.objects.update(due_at=Now() - sweep.HAND_OVER)

    assert (sweep.kick_queues(), kicked) == (0, [])
    end_pause()
    assert (sweep.kick_queues(), kicked) == (1, ["default"])


def test_the_fallback_takes_all_mail_while_the_primary_is_paused(user: User, sink: Sink, settings: Settings) -> None:
    settings.MAILERS = {"transport": email_url("smtp://127.0.0.1:1"), "fallback": email_url(sink.url)}
    first, second = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    deliver(first)

    assert [deliver(first).state, deliver(second).state] == [State.SENT, State.SENT]
    for message in (first, second):
        assert list(message.delivery_attempts.values_list("transport", "outcome")) == [("fallback", Outcome.ACCEPTED)]


def test_an_uncertain_outcome_does_not_pause_the_transport(user: User, smtp: Sink) -> None:
    smtp.script.once["BODY"] = deque([CUT])

    deliver(outbox.enqueue(Plain(user)))

    assert not paused_for()


def test_a_probe_whose_worker_died_is_repeated_after_a_minute(user: User, down: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    end_pause()
    transport = find_transport()
    assert transport

    with circuit.probing(transport) as mine:
        assert mine
        assert 59 < pause() <= 60
        end_pause()  # a minute later; the worker has died
        again = find_transport()
        assert again
        with circuit.probing(again) as theirs:
            assert theirs


class SlowToBuild(Plain):
    """Another message probes the transport while this one is built."""

    other: ClassVar[Message]

    def is_wanted(self) -> bool:
        deliver(self.other)
        return True


def test_a_worker_that_comes_second_does_not_probe(user: User, down: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowToBuild, "other", outbox.enqueue(Plain(user)), raising=False)
    Circuit.objects.create(transport="transport", host=heartbeat.host, failures=1, paused_until=timezone.now())

    message = deliver(outbox.enqueue(SlowToBuild(user)))

    assert (down.connections, SlowToBuild.other.attempts) == (1, 0)
    assert (message.state, message.attempts) == (State.QUEUED, 0)
    assert Circuit.objects.get().failures == 2


@pytest.mark.django_db(transaction=True)
def test_a_probe_counts_once_when_its_outcome_is_written_twice(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    smtp.script.always["MAIL"] = "452 4.3.1 disk full"
    Circuit.objects.create(transport="transport", host=circuit.ALL, failures=1, paused_until=timezone.now())
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
    assert Circuit.objects.get().failures == 2


def test_messages_that_will_not_be_sent_do_not_use_up_probes(user: User, smtp: Sink, make_user: Any) -> None:
    dead = make_user("dead@example.com")
    Suppression.objects.create(address=dead.email, reason="gone")
    rows = [outbox.enqueue(Plain(dead)), outbox.enqueue(Fleeting(user)), outbox.enqueue(Plain(user))]
    for number, row in enumerate(rows):
        make_due(row, ago=timedelta(seconds=10 - number))
    Circuit.objects.create(transport="transport", failures=3, paused_until=timezone.now())

    assert pipeline.deliver_due(["default"]) == 3

    states = list(Message.objects.order_by("pk").values_list("state", flat=True))
    assert states == [State.SUPPRESSED, State.EXPIRED, State.SENT]
    assert not paused_for()


def test_an_expired_message_does_not_wait_for_its_transport(user: User) -> None:
    outbox.enqueue(Fleeting(user))
    Circuit.objects.create(transport="transport", failures=3, paused_until=timezone.now() + timedelta(hours=1))

    sweep.sweep()

    assert Message.objects.get().state == State.EXPIRED


# As each host sees it. Row 14 of issue 14.


def cannot_connect(host: str, user: User, smtp: Sink) -> None:
    """Let a worker on this host try in vain."""
    another_host(host)
    connections.close_all()
    smtp.script.once["CONNECT"] = deque([CUT])
    assert deliver(outbox.enqueue(Plain(user))).state == State.QUEUED


def test_a_host_without_a_way_out_pauses_only_itself(user: User, smtp: Sink) -> None:
    cannot_connect("web-1", user, smtp)
    assert not is_open()

    another_host("web-2")
    assert is_open()
    assert pipeline.deliver_due(["default"]) == 1
    assert paused_for() == {"web-1"}


def test_a_second_host_that_agrees_pauses_it_for_all(user: User, smtp: Sink) -> None:
    cannot_connect("web-1", user, smtp)
    cannot_connect("web-2", user, smtp)

    assert paused_for() == {"web-1", "web-2", circuit.ALL}
    another_host("web-3")
    assert not is_open()


def test_a_host_that_did_not_try_for_long_does_not_agree(user: User, smtp: Sink) -> None:
    """It may not exist any more: a container has a new name each time that it starts."""
    cannot_connect("web-1", user, smtp)
    Circuit.objects.update(paused_until=Now() - circuit.LATELY)
    cannot_connect("web-2", user, smtp)

    assert circuit.ALL not in paused_for()


def test_the_sweep_deletes_the_circuits_of_hosts_without_workers(user: User, smtp: Sink) -> None:
    cannot_connect("web-1", user, smtp)
    heartbeat.end()
    cannot_connect("web-2", user, smtp)
    assert paused_for() == {"web-1", "web-2", circuit.ALL}

    sweep.sweep()
    assert paused_for() == {"web-2", circuit.ALL}


def test_a_host_does_not_agree_with_itself(user: User, smtp: Sink) -> None:
    cannot_connect("web-1", user, smtp)
    end_pause()
    cannot_connect("web-1", user, smtp)

    assert paused_for() == {"web-1"}


def test_two_hosts_pause_nobody_else_while_a_third_one_gets_mail_accepted(user: User, smtp: Sink) -> None:
    another_host("web-3")
    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT
    cannot_connect("web-1", user, smtp)
    cannot_connect("web-2", user, smtp)

    assert paused_for() == {"web-1", "web-2"}
    another_host("web-3")
    assert is_open()


def test_an_acceptance_of_long_ago_proves_nothing(user: User, smtp: Sink) -> None:
    another_host("web-3")
    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT
    DeliveryAttempt.objects.update(finished_at=F("finished_at") - circuit.LATELY)
    cannot_connect("web-1", user, smtp)
    cannot_connect("web-2", user, smtp)

    assert circuit.ALL in paused_for()


def test_the_first_host_that_gets_through_opens_it_for_itself_and_a_mail_for_all(user: User, smtp: Sink) -> None:
    cannot_connect("web-1", user, smtp)
    cannot_connect("web-2", user, smtp)
    end_pause()

    another_host("web-2")
    assert deliver(Message.objects.earliest("pk")).state == State.SENT

    assert paused_for() == {"web-1"}
    another_host("web-3")
    assert is_open()


def test_what_the_server_itself_said_pauses_all_hosts(user: User, smtp: Sink) -> None:
    another_host("web-1")
    smtp.script.once["MAIL"] = deque(["452 4.3.1 disk full"])
    deliver(outbox.enqueue(Plain(user)))

    another_host("web-2")
    assert not is_open()
