from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from mailer import outbox
from mailer.models import OPEN_END, Circuit, Message, Role, Worker
from tests.mailer.kinds import Plain
from tests.servers import Valkey

NO_PULSE: dict[str, Any] = {"sweep_seconds": None, "broker_seconds": None, "beat_seconds": None}
FINE: dict[str, Any] = {
    "database": True,
    "broker": True,
    "oldest_due_seconds": 0.0,
    "workers": 1,
    "paused": [],
    "waiting": {},
    **NO_PULSE,
}


@pytest.fixture
def worker(transactional_db: None) -> Worker:
    return Worker.objects.create(host="host-1", pid=1, release="", queues=["critical", "default", "bulk"])


def test_alive_needs_no_database(client: Client) -> None:
    assert client.get("/healthz").content == b"ok\n"


@pytest.mark.usefixtures("worker")
def test_ready_reports_database_broker_backlog_and_workers(client: Client, user: User, valkey: Valkey) -> None:
    assert client.get("/readyz").json() == FINE

    outbox.enqueue(Plain(user))
    Message.objects.update(first_due_at=Now() - timedelta(minutes=5), due_at=Now() - timedelta(minutes=5))
    valkey.stop()
    try:
        response = client.get("/readyz")
    finally:
        valkey.start()

    assert response.status_code == 200
    assert response.json()["broker"] is False
    assert response.json()["oldest_due_seconds"] == pytest.approx(300, abs=5)
    assert (response.json()["workers"], response.json()["waiting"]) == (1, {})


def test_ready_says_what_waits_for_a_person(client: Client, user: User, worker: Worker) -> None:
    outbox.enqueue_many([Plain(user)] * 5)
    Message.objects.update(due_at=Now() - timedelta(minutes=5))
    unknown, pinned = Message.objects.values_list("pk", flat=True)[:2]
    Message.objects.filter(pk=unknown).update(kind="shop.Gone")
    Message.objects.filter(pk=pinned).update(transport="pigeon")

    response = client.get("/readyz")
    assert response.status_code == 200  # a request loses no mail
    waiting = response.json()["waiting"]
    assert sorted(waiting.values()) == [1, 1]
    assert {name for name in ("shop.Gone", "pigeon") if any(name in sentence for sentence in waiting)} == {
        "shop.Gone",
        "pigeon",
    }

    worker.delete()
    response = client.get("/readyz")
    assert (response.status_code, response.json()["workers"]) == (200, 0)
    assert sorted(response.json()["waiting"].values()) == [1, 1, 3]  # three messages wait for a worker


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("pause", [{"needs_person": True}, {"by_person": True, "paused_until": OPEN_END}])
def test_strangers_do_not_read_what_a_server_or_a_person_said(
    client: Client, user: User, pause: dict[str, Any]
) -> None:
    outbox.enqueue(Plain(user))
    Message.objects.update(due_at=Now() - timedelta(minutes=5))
    until = {"paused_until": Now() + timedelta(hours=1)}
    said = "10.0.0.7:587: 535 5.7.8 mailuser: authentication failed"
    Circuit.objects.create(transport="transport", paused_since=Now(), reason=said, **until | pause)

    [(sentence, number)] = client.get("/readyz").json()["waiting"].items()

    assert ("The transport 'transport' " in sentence, number) == (True, 1)
    assert "mailuser" not in sentence
    assert "10.0.0.7" not in sentence


def test_ready_reports_the_pulse(client: Client, worker: Worker) -> None:
    ages = {"swept_at": Now() - timedelta(seconds=9), "broker_at": Now() - timedelta(seconds=70)}
    Worker.objects.filter(pk=worker.pk).update(**ages)
    Worker.objects.create(host="host-1", pid=2, role=Role.BEAT, seen_at=Now() - timedelta(minutes=5))

    status = client.get("/readyz").json()

    assert [status[name] for name in NO_PULSE] == pytest.approx([9, 70, 300], abs=2)


@pytest.mark.usefixtures("worker")
def test_a_deployment_is_not_reported(client: Client, user: User) -> None:
    outbox.enqueue_many([Plain(user)])
    Message.objects.update(due_at=Now() - timedelta(seconds=10))
    Worker.objects.all().delete()

    assert client.get("/readyz").json()["waiting"] == {}


@pytest.mark.usefixtures("worker")
def test_the_number_of_queries_does_not_grow_with_what_waits(client: Client, user: User) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            client.get("/readyz")
        return len(captured)

    outbox.enqueue_many([Plain(user)])
    Message.objects.update(due_at=Now() - timedelta(minutes=5))
    few = queries()
    outbox.enqueue_many([Plain(user)] * 50)
    for message in Message.objects.all():
        Message.objects.filter(pk=message.pk).update(
            kind=f"shop.Gone{message.pk % 10}", due_at=Now() - timedelta(minutes=5)
        )

    assert queries() == few


@pytest.mark.django_db(transaction=True)
def test_without_a_database_it_is_not_ready(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connection.settings_dict, "PORT", "1")

    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json() == {
        "database": False,
        "broker": True,
        "oldest_due_seconds": None,
        "workers": None,
        "paused": [],
        "waiting": {},
        **NO_PULSE,
    }
