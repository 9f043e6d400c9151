"""The numbers for Prometheus, over real rows."""

import math
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.models import Circuit, DeliveryAttempt, Message, Role, State, StreamReputation, Worker
from tests.mailer.kinds import Bulletin, Plain
from tests.mailer.scrape import TOKEN, scrape

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def token(settings: Settings) -> None:
    settings.POSTCOMMIT = {"METRICS_TOKEN": TOKEN}


def settle(message: Message, state: State, *, after: float = 0, ago: float = 0) -> None:
    """Settle a message some seconds after it was first due."""
    settled = Now() - timedelta(seconds=ago)
    Message.objects.filter(pk=message.pk).update(
        state=state, settled_at=settled, first_due_at=settled - timedelta(seconds=after)
    )


def test_messages_by_state_and_kind(user: User) -> None:
    outbox.enqueue_many([Plain(user), Plain(user), Bulletin(user)])
    unknown, held, quarantined = (outbox.enqueue(Plain(user)) for _ in range(3))
    Message.objects.filter(pk=unknown.pk).update(kind="shop.Gone")
    Message.objects.filter(pk__in=[held.pk, quarantined.pk]).move(State.HELD, reason="perhaps sent")
    Message.objects.filter(pk=quarantined.pk).update(reason="quarantined: 3 workers stopped while they prepared it")

    series = scrape()

    assert series['postcommit_messages{kind="tests.Plain",state="queued"}'] == 2
    assert series['postcommit_messages{kind="tests.Bulletin",state="queued"}'] == 1
    assert series['postcommit_messages{kind="other",state="queued"}'] == 1
    assert series['postcommit_messages{kind="tests.Plain",state="held"}'] == 2
    assert series["postcommit_quarantined"] == 1


def test_the_last_hour_by_state_and_its_delays(user: User) -> None:
    for after in (0.5, 3, 7200):
        settle(outbox.enqueue(Plain(user)), State.SENT, after=after)
    settle(outbox.enqueue(Plain(user)), State.FAILED, after=9)
    settle(outbox.enqueue(Plain(user)), State.SENT, ago=3700)

    series = scrape()

    assert series['postcommit_messages_settled_last_hour{kind="tests.Plain",state="sent"}'] == 3
    assert series['postcommit_messages_settled_last_hour{kind="tests.Plain",state="failed"}'] == 1
    delays = 'postcommit_delay_seconds_last_hour_bucket{le="%s",queue="default"}'
    assert [series[delays % limit] for limit in ("1.0", "2.0", "5.0", "3600.0", "21600.0", "+Inf")] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert series['postcommit_delay_seconds_last_hour_gsum{queue="default"}'] == pytest.approx(7203.5)
    assert series[delays.replace("default", "bulk") % "+Inf"] == 0


def test_attempts_by_outcome_and_transport(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    for number, transport, outcome, started in (
        (1, "transport", "accepted", Now()),
        (2, "pigeon", "refused_for_now", Now()),
        (3, "transport", "accepted", Now() - 2 * HOUR),
    ):
        DeliveryAttempt.objects.create(
            message=message, number=number, transport=transport, outcome=outcome, started_at=started
        )

    series = scrape()

    assert series['postcommit_attempts_last_hour{outcome="accepted",transport="transport"}'] == 1
    assert series['postcommit_attempts_last_hour{outcome="refused_for_now",transport="other"}'] == 1


def test_the_oldest_due_message_counts_from_its_first_due_time(user: User) -> None:
    due, later, troubled = (outbox.enqueue(Plain(user)) for _ in range(3))
    bulk = outbox.enqueue(Bulletin(user))
    Message.objects.filter(pk=due.pk).update(
        first_due_at=Now() - HOUR, due_at=Now()
    )  # a probe of its transport was just made
    Message.objects.filter(pk=later.pk).update(first_due_at=Now() - 3 * HOUR, due_at=Now() + HOUR)
    Message.objects.filter(pk=troubled.pk).update(due_at=Now() + HOUR)

    series = scrape()
    assert series['postcommit_oldest_due_seconds{queue="default"}'] == pytest.approx(3600, abs=5)
    assert series['postcommit_oldest_due_seconds{queue="bulk"}'] == pytest.approx(0, abs=5)
    assert series['postcommit_oldest_due_seconds{queue="critical"}'] == 0

    Message.objects.filter(pk=troubled.pk).update(first_due_at=Now() - 2 * HOUR, troubled_since=Now() - HOUR)
    Message.objects.filter(pk=bulk.pk).move(State.HELD, reason="perhaps sent")
    assert scrape()['postcommit_oldest_due_seconds{queue="default"}'] == pytest.approx(7200, abs=5)


@pytest.mark.django_db
def test_the_pulse() -> None:
    nothing = scrape()
    assert nothing['postcommit_workers{queue="bulk"}'] == 0
    for name in ("sweep", "broker_answer", "beat_heartbeat"):
        assert nothing[f"postcommit_{name}_age_seconds"] == math.inf

    silent, alive = Now() - timedelta(minutes=1), Now() - timedelta(seconds=2)
    Worker.objects.create(host="a", pid=1, queues=["bulk"], seen_at=alive, swept_at=silent, broker_at=alive)
    Worker.objects.create(host="a", pid=2, queues=["bulk", "default"], seen_at=alive, swept_at=alive, broker_at=silent)
    Worker.objects.create(host="b", pid=1, queues=["bulk"], seen_at=silent)
    Worker.objects.create(host="b", pid=2, role=Role.BEAT, seen_at=silent)

    series = scrape()

    assert [series[f'postcommit_workers{{queue="{queue}"}}'] for queue in ("critical", "default", "bulk")] == [0, 1, 2]
    assert series["postcommit_worker_heartbeat_age_seconds"] == pytest.approx(2, abs=1)
    assert series["postcommit_sweep_age_seconds"] == pytest.approx(2, abs=1)
    assert series["postcommit_broker_answer_age_seconds"] == pytest.approx(2, abs=1)
    assert series["postcommit_beat_heartbeat_age_seconds"] == pytest.approx(60, abs=1)


@pytest.mark.django_db
def test_paused_transports() -> None:
    assert scrape()['postcommit_transport_paused{host="all",transport="transport"}'] == 0

    Circuit.objects.create(transport="transport", paused_until=Now() + HOUR, needs_person=True)
    Circuit.objects.create(transport="transport", host="a", paused_until=Now() + HOUR)

    series = scrape()
    assert series['postcommit_transport_paused{host="all",transport="transport"}'] == 1
    assert series['postcommit_transport_paused{host="a",transport="transport"}'] == 1
    assert series['postcommit_transport_needs_person{host="all",transport="transport"}'] == 1
    assert series['postcommit_transport_needs_person{host="a",transport="transport"}'] == 0


@pytest.mark.django_db
def test_paused_streams_and_their_complaints() -> None:
    assert scrape()['postcommit_stream_paused{stream="news"}'] == 0

    StreamReputation.objects.create(stream="news", complaints=4, sent=1_000, paused_since=Now())
    StreamReputation.objects.create(stream="gone", complaints=4, sent=1_000, paused_since=Now())

    series = scrape()
    assert series['postcommit_stream_paused{stream="news"}'] == 1
    assert series['postcommit_stream_complaint_ratio{stream="news"}'] == pytest.approx(0.004)
    assert 'postcommit_stream_paused{stream="gone"}' not in series  # the number of series is bounded


@pytest.mark.django_db
def test_only_the_token_opens_it(client: Client, settings: Settings) -> None:
    for header in ({}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer é"}):
        refused = client.get("/metrics", headers=header)
        assert (refused.status_code, refused["WWW-Authenticate"]) == (401, "Bearer")
        assert b"postcommit_" not in refused.content
    assert client.post("/metrics").status_code == 405

    settings.POSTCOMMIT = {}
    for header in ({}, {"Authorization": "Bearer "}):
        assert client.get("/metrics", headers=header).status_code == 404
    settings.DEBUG = True
    assert client.get("/metrics").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_without_a_database_it_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connection.settings_dict, "PORT", "1")

    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})

    assert (answer.status_code, answer.content) == (503, b"The database did not answer in time.\n")


def test_the_number_of_queries_does_not_grow(user: User) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            scrape()
        return len(captured)

    few = queries()
    outbox.enqueue_many([Plain(user), Bulletin(user)] * 20)
    Message.objects.filter(queue="bulk").update(state=State.SENT, settled_at=Now())
    for pid in range(5):
        Worker.objects.create(host=f"host-{pid}", pid=pid, queues=["bulk"])

    assert queries() == few < 20
