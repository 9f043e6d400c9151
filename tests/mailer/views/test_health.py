from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.models import Message
from tests.mailer.kinds import Plain
from tests.servers import Valkey


def test_alive_needs_no_database(client: Client) -> None:
    assert client.get("/healthz").content == b"ok\n"


@pytest.mark.django_db(transaction=True)
def test_ready_reports_database_broker_and_backlog(client: Client, user: User, valkey: Valkey) -> None:
    assert client.get("/readyz").json() == {"database": True, "broker": True, "oldest_due_seconds": 0.0}

    outbox.enqueue(Plain(user))
    Message.objects.update(due_at=timezone.now() - timedelta(minutes=5))
    valkey.stop()
    try:
        response = client.get("/readyz")
    finally:
        valkey.start()

    assert response.status_code == 200
    assert response.json()["broker"] is False
    assert response.json()["oldest_due_seconds"] == pytest.approx(300, abs=5)
