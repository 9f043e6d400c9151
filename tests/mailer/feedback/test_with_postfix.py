"""A sign-up whose address does not exist: a real Postfix takes the mail, and returns it when the next server refuses it."""

import io
import sys
from collections.abc import Callable, Iterator

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import sweep
from mailer.models import Bounce, Cause, Message, State, Suppression, What
from mailer.transports.verp import envelope_sender
from tests.accounts import steps
from tests.environment import new_directory
from tests.mailer.kinds import Plain
from tests.mailer.worker import deliver_now as deliver
from tests.postfix import Postfix
from tests.servers import wait_until
from tests.smtp_sink import Received, Sink

NOBODY = "nobody@remote.example"
UNKNOWN = "550 5.1.1 The email account that you tried to reach does not exist"


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Sink]:
    """The server to which Postfix delivers the bounces."""
    with Sink() as server:
        yield server


@pytest.fixture(scope="module")
def postfix(mailbox: Sink) -> Iterator[Postfix]:
    """A relay: mail goes to the next server, bounces go to the mailbox."""
    to_mailbox = f"inline:{{ {{ postcommit.example = smtp:[127.0.0.1]:{mailbox.port} }} }}"
    with Postfix(new_directory("postfix"), transport_maps=to_mailbox) as server:
        yield server


@pytest.fixture
def site(postfix: Postfix, through: Callable[[str], None], settings: Settings) -> Postfix:
    """This site, which sends through Postfix."""
    through(postfix.url)
    settings.POSTCOMMIT = {"BOUNCE_ADDRESS": "bounces@postcommit.example"}
    return postfix


def bounce(mailbox: Sink) -> Received:
    """Wait for the one bounce."""
    wait_until(lambda: mailbox.received, "the bounce")
    [received] = mailbox.received
    mailbox.received.clear()
    return received


@pytest.fixture
def come_back(mailbox: Sink, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Give the bounce to `manage.py read_bounces` as an alias of Postfix does, and apply it. Returns to whom it came."""

    def read() -> str:
        received = bounce(mailbox)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(received.source)))
        call_command("read_bounces")
        sweep.sweep()
        assert received.sender == "<>"
        [recipient] = received.recipients
        return recipient

    return read


@pytest.mark.django_db
def test_a_sign_up_whose_address_does_not_exist_is_told_by_the_bounce(
    site: Postfix, come_back: Callable[[], str], client: Client, admin_client: Client
) -> None:
    site.target.script.to = {NOBODY: UNKNOWN}
    steps.sign_up(client, NOBODY)
    message = deliver(Message.objects.get())
    assert message.state == State.SENT  # Postfix took it

    assert come_back() == envelope_sender(message.pk)

    message.refresh_from_db()
    assert message.state == State.SENT
    [event] = message.events.all()
    assert (event.what, event.bounce, event.code, event.recipient) == (What.BOUNCED, Bounce.HARD, "5.1.1", NOBODY)
    [suppression] = Suppression.objects.all()
    assert (suppression.address, suppression.cause, suppression.message) == (NOBODY, Cause.BOUNCE, message)
    page = admin_client.get(reverse("admin:mailer_message_change", args=[message.pk])).content.decode()
    assert "It came back at" in page
    assert "the address does not exist" in page
    assert "our e-mail came back" in client.get(reverse("check_inbox")).content.decode()


@pytest.mark.django_db
def test_a_full_mailbox_stops_no_mail(site: Postfix, come_back: Callable[[], str], user: User) -> None:
    site.target.script.to = {user.email: "552 5.2.2 The email account that you tried to reach is over quota"}
    message = deliver(outbox.enqueue(Plain(user)))

    come_back()

    assert message.events.get().bounce == Bounce.SOFT
    assert not Suppression.objects.exists()
