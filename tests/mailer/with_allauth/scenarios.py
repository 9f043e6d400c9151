"""What test_allauth.py runs in a process with these settings."""

import re
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.db import transaction
from django.test import Client
from django.utils import timezone

from accounts.models import User
from mailer.delivery import pipeline
from mailer.models import Message, Payload, State
from tests.smtp_sink import Received, Sink

pytestmark = pytest.mark.django_db(transaction=True)

ANN, PASSWORD = "ann@example.com", "a long enough passphrase"


def deliver_everything() -> None:
    for message in Message.objects.waiting().filter(due_at__lte=timezone.now()):
        pipeline.deliver(message.pk)


def sign_up(client: Client) -> Any:
    form = {"email": ANN, "password1": PASSWORD, "password2": PASSWORD}
    return client.post("/members/signup/", form)


def link_in(received: Received) -> str:
    found = re.search(r"http://[^/]+(/members/\S+)", received.part("plain"))
    assert found, received.part("plain")
    return found[1]


def test_a_sign_up_is_mailed_and_confirmed(client: Client, smtp: Sink) -> None:
    assert sign_up(client).status_code == 302
    message = Message.objects.get()
    assert (message.kind, message.recipient, message.state) == ("mailer.DjangoMail", ANN, State.QUEUED)
    assert smtp.received == []

    deliver_everything()
    [received] = smtp.received
    assert received.recipients == [ANN]
    assert received.parsed["Subject"].startswith("[ร้าน] ")
    assert received.parsed["Message-ID"] == message.message_id_header
    assert client.post(link_in(received)).status_code == 302
    assert EmailAddress.objects.get(email=ANN).verified


def test_a_sign_up_that_is_rolled_back_mails_nothing(client: Client, smtp: Sink) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert sign_up(client).status_code == 302
        assert Message.objects.count() == 1
        raise ZeroDivisionError

    assert not User.objects.exists()
    assert not Message.objects.exists()
    assert not Payload.objects.exists()
    deliver_everything()
    assert smtp.received == []


def test_a_password_reset_leads_to_a_new_password(client: Client, smtp: Sink) -> None:
    user = User.objects.create_user(ANN, PASSWORD)
    EmailAddress.objects.create(user=user, email=ANN, verified=True, primary=True)
    assert client.post("/members/password/reset/", {"email": ANN}).status_code == 302
    deliver_everything()

    [received] = smtp.received
    form = client.get(link_in(received))
    another = dict.fromkeys(["password1", "password2"], f"another {PASSWORD}")
    assert client.post(form["Location"], another).status_code == 302
    user.refresh_from_db()
    assert user.check_password(f"another {PASSWORD}")


def test_a_server_that_is_down_delays_the_mail_and_nothing_else(client: Client, smtp: Sink) -> None:
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"
    assert sign_up(client).status_code == 302
    deliver_everything()
    assert Message.objects.get().state == State.QUEUED
    assert User.objects.get().email == ANN
