"""The daily quota of a transport: counted for all workers, over any 24 hours. When it is used up, the fallback takes over."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import database, outbox
from mailer.delivery import circuit, explain, pipeline, quota, rate, sweep
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.pulse import health, look
from mailer.models import Circuit, DeliveryAttempt, Message, State, TransportState
from mailer.transports import connections
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.mailer.worker import deliver
from tests.smtp_sink import Sink

NOON = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
HOUR = int(NOON.timestamp() // 3600)
AT_ONCE = timedelta(0)


@pytest.mark.parametrize(
    ("taken", "limit", "hours"),
    [
        ({}, 5, None),
        ({0: 4}, 5, None),
        ({0: 5}, 5, 25),  # the last message of this hour counts for 24 hours
        ({0: 5, -24: 1}, 5, 25),
        ({-24: 5}, 5, 1),
        ({-25: 5}, 5, None),
        ({-24: 3, -23: 2}, 5, 1),
        ({-24: 3, -23: 2}, 2, 2),  # the quota was lowered
        ({-20: 1, -10: 1, 0: 8}, 5, 25),
        ({0: 2, 1: 3}, 5, 25),  # the clock was corrected
        ({99_999: 5}, 5, 25),
        ({99_999: 4}, 5, None),
    ],
)
def test_a_quota_is_free_again_when_enough_hours_are_over(taken: dict[int, int], limit: int, hours: int | None) -> None:
    end = quota.free_at({str(HOUR + hour): number for hour, number in taken.items()}, limit, NOON)

    assert end == (NOON.replace(minute=0) + timedelta(hours=hours) if hours else None)


@pytest.fixture
def transport(smtp: Sink, settings: Settings) -> Sink:
    """The transport, with a quota of three messages."""
    settings.MAILERS = {**settings.MAILERS, "transport": email_url(f"{smtp.url}/?quota=3/day")}
    return smtp


@pytest.fixture
def fallback(transport: Sink, settings: Settings) -> Iterator[Sink]:
    """A fallback without a limit."""
    with Sink() as sink:
        settings.MAILERS = {**settings.MAILERS, "fallback": email_url(sink.url)}
        yield sink


def let_pass(hours: int) -> None:
    """What was counted is now so many hours old."""
    hour = int(database.now().timestamp() // 3600) - hours
    for state in TransportState.objects.all():
        TransportState.objects.filter(pk=state.pk).update(taken={str(hour): sum(state.taken.values())})


def taken(alias: str = "transport") -> int:
    return quota.taken_by_hour(TransportState.objects.get(alias=alias).taken, database.now()).total()


def send(user: User, number: int) -> list[str]:
    """Deliver so many new messages. Return their transports; nothing for one that waits."""
    messages = [deliver(outbox.enqueue(Plain(user))) for _ in range(number)]
    assert {message.state for message in messages} <= {State.SENT, State.QUEUED}
    return [getattr(message.delivery_attempts.first(), "transport", "") for message in messages]


def sentence_of(message: Message) -> str:
    return str(explain.explain(message, look()))


@pytest.mark.django_db
@pytest.mark.parametrize(
    "counted",
    [
        {},
        {0: 2},
        {0: 3},
        {-24: 3},
        {-25: 3},
        {-24: 2, -1: 1},
        {1: 2, 0: 1},
        {5: 1, 9_999: 1},
        {9_999: 3},
        {-30: 50, 0: 2},
    ],
)
def test_the_database_counts_the_same(transport: Sink, counted: dict[int, int]) -> None:
    now = database.now()
    rows = {str(int(now.timestamp() // 3600) + hour): number for hour, number in counted.items()}
    TransportState.objects.create(alias="transport", taken=rows)
    before = quota.taken_by_hour(rows, now).total()

    booked = rate.book_slot("transport", AT_ONCE)

    is_free = quota.free_at(rows, 3, now) is None
    assert (booked is not None, taken()) == (is_free, before + is_free)
    if is_free:
        stored = TransportState.objects.get().taken
        assert all(-24 <= int(hour) - int(now.timestamp() // 3600) <= 0 for hour in stored)


@pytest.mark.django_db
def test_the_fallback_takes_over_until_the_quota_is_free_again(user: User, transport: Sink, fallback: Sink) -> None:
    assert send(user, 5) == ["transport"] * 3 + ["fallback"] * 2

    let_pass(hours=24)
    assert send(user, 1) == ["fallback"]

    let_pass(hours=25)
    assert send(user, 4) == ["transport"] * 3 + ["fallback"]
    assert not Circuit.objects.exists()


@pytest.mark.django_db
def test_if_both_are_used_up_mail_waits_and_everybody_is_told_why_and_until_when(
    user: User, transport: Sink, fallback: Sink, settings: Settings, client: Client
) -> None:
    settings.MAILERS = {**settings.MAILERS, "fallback": email_url(f"{fallback.url}/?quota=2")}
    heartbeat.queues = ["critical", "default", "bulk"]
    heartbeat.beat()

    assert send(user, 7) == ["transport"] * 3 + ["fallback"] * 2 + ["", ""]

    waiting = Message.objects.waiting().last()
    assert waiting
    hour = (database.now() + timedelta(hours=25)).replace(minute=0, second=0, microsecond=0)
    until = f"{hour:%Y-%m-%d %H}:00:00 UTC"
    said = f"The transport 'transport' waits: its daily quota of 3 is used up until {until}."
    assert sentence_of(waiting) == said
    assert not explain.explain(waiting, look()).is_stuck
    assert client.get("/readyz").json()["paused"] == [
        f"The transport 'fallback' waits: its daily quota of 2 is used up until {until}.",
        said,
    ]
    assert not {"", "transport", "fallback"}.intersection(circuit.open_routes())
    assert sweep.kick_queues() == 0
    assert pipeline.deliver_due(["default"]) == 0

    let_pass(hours=25)
    assert pipeline.deliver_due(["default"]) == 2
    assert not Message.objects.exclude(state=State.SENT).exists()
    assert client.get("/readyz").json()["paused"] == []


@pytest.mark.django_db
def test_a_quota_that_a_person_raises_counts_from_the_restart(user: User, transport: Sink, settings: Settings) -> None:
    assert send(user, 4) == ["transport"] * 3 + [""]

    settings.MAILERS = {**settings.MAILERS, "transport": email_url(f"{transport.url}/?quota=4/day")}
    assert pipeline.deliver_due(["default"]) == 1
    assert send(user, 1) == [""]

    settings.MAILERS = {**settings.MAILERS, "transport": email_url(transport.url)}
    assert send(user, 1) == ["transport"]


@pytest.mark.django_db
def test_a_transport_without_a_quota_is_not_counted(user: User, smtp: Sink) -> None:
    send(user, 2)

    assert not TransportState.objects.exists()


@pytest.mark.django_db
def test_a_used_up_quota_stops_no_other_route(user: User, transport: Sink, fallback: Sink) -> None:
    send(user, 3)
    usual, other = (outbox.enqueue(Plain(user), using=alias) for alias in ("transport", "fallback"))

    assert pipeline.deliver_due(["default"]) == 1

    usual.refresh_from_db()
    other.refresh_from_db()
    assert (usual.state, other.state) == (State.QUEUED, State.SENT)


@pytest.mark.django_db
def test_a_backlog_ends_at_the_quota_and_what_is_left_keeps_no_worker_busy(user: User, transport: Sink) -> None:
    outbox.enqueue_many(Plain(user) for _ in range(8))
    kicks: list[int] = []

    pipeline.deliver_due(["default"], on_more=lambda: kicks.append(1))

    assert (len(transport.received), Message.objects.due().count()) == (3, 5)
    assert kicks == [1]  # for what was due at the beginning
    assert Message.objects.filter(worker=None, attempts=0).count() == 5


@pytest.mark.django_db
@pytest.mark.parametrize("why", ["unwanted", "refused connection", "lost claim", "cut in two"])
def test_what_is_not_sent_is_given_back(user: User, transport: Sink, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send(user, 1)
    message = outbox.enqueue(Plain(user))
    if why == "unwanted":
        monkeypatch.setattr(Plain, "is_wanted", lambda _: False)
    elif why == "refused connection":
        connections.close_all()
        transport.script.always["CONNECT"] = "421 4.3.2 closed"
    elif why == "lost claim":
        monkeypatch.setattr(pipeline, "claim", lambda *_: None)
    elif why == "cut in two":
        monkeypatch.setattr(pipeline, "prepare", lambda *_: 1 // 0)

    assert deliver(message).state in (State.CANCELLED, State.QUEUED)

    assert (taken(), DeliveryAttempt.objects.count()) == (1, 1)


@pytest.mark.django_db
def test_what_the_server_refused_counts(user: User, transport: Sink) -> None:
    """Providers differ in this, so the count is on the safe side."""
    transport.script.always["RCPT"] = "451 4.2.1 later"
    deliver(outbox.enqueue(Plain(user)))

    assert taken() == 1


@pytest.mark.django_db
def test_nothing_is_given_back_below_zero(transport: Sink) -> None:
    TransportState.objects.create(alias="transport")
    quota.give_back("transport")
    rate.book_slot("transport", AT_ONCE)

    quota.give_back("transport")
    quota.give_back("transport")

    assert taken() == 0


@pytest.mark.django_db
def test_a_rate_and_a_quota_hold_together(transport: Sink, settings: Settings) -> None:
    settings.MAILERS = {**settings.MAILERS, "transport": email_url(f"{transport.url}/?quota=3&rate=30/min")}
    in_time = timedelta(seconds=3)

    waits = [rate.book_slot("transport", in_time) for _ in range(3)]

    assert waits == [pytest.approx(0, abs=0.2), pytest.approx(2, abs=0.2), None]
    assert taken() == 2  # the one that would have waited for too long is not counted

    TransportState.objects.update(slot_at=Now())
    assert rate.book_slot("transport", in_time) == pytest.approx(0, abs=0.2)
    TransportState.objects.update(slot_at=Now())
    before = TransportState.objects.get().slot_at
    assert rate.book_slot("transport", in_time) is None
    assert TransportState.objects.get().slot_at == before  # without the quota no slot is booked


@pytest.mark.django_db
def test_a_clock_that_jumps_back_neither_blocks_the_transport_nor_forgets_what_was_sent(
    user: User, transport: Sink
) -> None:
    send(user, 2)
    let_pass(hours=-24 * 365)  # sent in a year from now, by the clock of then

    assert send(user, 2) == ["transport", ""]
    let_pass(hours=25)
    assert send(user, 1) == ["transport"]


@pytest.mark.django_db(transaction=True)
def test_many_threads_send_exactly_what_the_quota_allows(user: User, transport: Sink, fallback: Sink) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(12)]
    together = threading.Barrier(4)

    def work(mine: list[Message]) -> None:
        together.wait()
        for message in mine:
            pipeline.deliver(message.pk)
        connections.close_all()

    at_once([partial(work, messages[number::4]) for number in range(4)])
    while pipeline.deliver_due(["default"]):  # what lost the race for the last place is still due
        pass

    assert (len(transport.received), len(fallback.received)) == (3, 9)
    assert set(Message.objects.values_list("state", flat=True)) == {State.SENT}
    assert taken() == 3


@pytest.mark.django_db(transaction=True)
def test_slots_that_are_booked_at_once_never_exceed_the_quota(transport: Sink, settings: Settings) -> None:
    settings.MAILERS = {**settings.MAILERS, "transport": email_url(f"{transport.url}/?quota=20")}
    together = threading.Barrier(6)

    def book() -> int:
        together.wait()
        booked = 0
        for turn in range(10):
            if rate.book_slot("transport", AT_ONCE) is not None:
                booked += 1
                if turn % 3 == 0:
                    quota.give_back("transport")
                    booked -= 1
        return booked

    results, failures = at_once([book] * 6)

    assert not failures
    assert sum(results) == taken() <= 20
    while rate.book_slot("transport", AT_ONCE) is not None:
        pass
    assert taken() == 20


@pytest.mark.django_db
def test_a_provider_that_says_that_the_quota_is_used_up_is_asked_again_within_an_hour(
    user: User, smtp: Sink, settings: Settings, client: Client
) -> None:
    with Sink() as second:
        settings.MAILERS = {**settings.MAILERS, "fallback": email_url(second.url)}
        smtp.script.always["MAIL"] = "550 5.4.5 Daily user sending limit exceeded."
        message = outbox.enqueue(Plain(user))
        deliver(message)

        paused = Circuit.objects.get()
        assert paused.paused_until
        assert (paused.transport, paused.needs_person) == ("transport", False)
        assert timedelta(minutes=59) < paused.paused_until - database.now() <= timedelta(hours=1)
        assert [line[:38] for line in client.get("/readyz").json()["paused"]] == [
            "The transport 'transport' cannot be us"
        ]
        assert deliver(message).state == State.SENT
        assert len(second.received) == 1

        Circuit.objects.update(paused_until=Now())
        smtp.script.always.clear()
        assert send(user, 1) == ["transport"]


@pytest.mark.django_db(transaction=True)
def test_only_a_transport_with_a_quota_costs_statements(user: User, transport: Sink, fallback: Sink) -> None:
    heartbeat.beat()
    costs = {}
    for alias in ("fallback", "transport"):
        message = outbox.enqueue(Plain(user), using=alias)
        with CaptureQueriesContext(connection) as captured:
            pipeline.deliver(message.pk)
        costs[alias] = len(captured)

    assert costs == {"fallback": 4, "transport": 4 + 2}


@pytest.mark.django_db
def test_a_person_who_resumes_it_is_told_that_its_quota_is_used_up(
    user: User, transport: Sink, capsys: pytest.CaptureFixture[str]
) -> None:
    send(user, 3)

    call_command("resume_transport", "transport")

    said = capsys.readouterr().out
    assert "The transport 'transport' was not paused." in said
    assert "waits: its daily quota of 3 is used up until" in said


@pytest.mark.django_db
def test_pages_and_commands_name_a_quota_that_is_used_up_without_a_button(
    user: User, transport: Sink, capsys: pytest.CaptureFixture[str]
) -> None:
    send(user, 3)

    [line] = [line for line in health(look()) if line.part == "Transports"]
    assert (line.is_well, line.action) == (False, None)
    assert "its daily quota of 3 is used up until" in line.sentence
    call_command("mail_status", "--json")
    [paused] = json.loads(capsys.readouterr().out)["paused"]
    assert (paused["transport"], paused["reason"]) == ("transport", "its daily quota of 3 is used up")
    assert paused["until"]
    assert not paused["needs_person"]
    assert circuit.describe(circuit.paused()).endswith(":00:00 UTC, its daily quota of 3 is used up")
