"""A person pauses a transport and resumes it. Workers obey, and neither probe nor end the pause."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import circuit, pipeline, sweep
from mailer.delivery.attribution import Attribution, Fault
from mailer.delivery.explain import explain
from mailer.delivery.pulse import look
from mailer.models import Circuit, Message, State, Worker
from mailer.outcomes import TransportDown
from tests.conftest import OUTBOX
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def why(message: Message) -> str:
    Worker.objects.create(host="host-1", pid=1, release="", queues=["critical", "default", "bulk"])
    message.refresh_from_db()
    return str(explain(message, look()))


def test_mail_waits_with_the_persons_reason_until_the_transport_is_resumed(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))

    assert run("pause_transport", "transport", "--reason", "moving to a new provider").startswith(
        "The transport 'transport' is paused until"
    )
    assert pipeline.deliver(message.pk) == "waits: transport paused by a person"
    assert "The transport 'transport' has been paused by a person since 20" in why(message)
    assert why(message).endswith(" UTC: moving to a new provider. resume_transport continues it.")
    assert explain(message, look()).is_stuck
    assert smtp.received == []

    assert "is used again" in run("resume_transport", "transport")
    pipeline.deliver(message.pk)

    message.refresh_from_db()
    assert (message.state, len(smtp.received)) == (State.SENT, 1)
    assert "was not paused" in run("resume_transport", "transport")


def test_a_pause_for_a_time_ends_by_itself_and_leaves_nothing(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    run("pause_transport", "transport", "--for", "2h")
    assert "resume_transport continues it. Next: 20" in why(message)
    assert not explain(message, look()).is_stuck

    Circuit.objects.update(paused_until=Now() - timedelta(seconds=1))
    assert "paused" not in why(message)
    pipeline.deliver(message.pk)

    assert len(smtp.received) == 1
    circuit.forget_old()
    assert not Circuit.objects.exists()


def test_workers_neither_probe_nor_end_the_pause_of_a_person(user: User, smtp: Sink) -> None:
    probing = circuit.Transport("transport", ())
    circuit.pause_here(probing, TransportDown("", "connection refused"))
    Circuit.objects.update(host=circuit.ALL, paused_until=Now())
    transport = circuit.find_transport("", circuit.paused())
    assert transport is not None
    assert transport.probes

    with circuit.probing(transport):  # a worker probes while the person decides
        run("pause_transport", "transport")
        circuit.close(transport)
    sweep.sweep()
    circuit.pause_everywhere(transport, TransportDown("", "connection refused"), Attribution(Fault.TRANSPORT))

    assert circuit.find_transport("", circuit.paused()) is None
    assert Circuit.objects.get(by_person=True).ends_at is None


def test_mail_takes_the_fallback_while_a_person_pauses_the_first_transport(
    user: User, sink: Sink, settings: Settings
) -> None:
    settings.MAILERS = {
        "default": OUTBOX,
        "transport": email_url("smtp://127.0.0.1:1"),
        "fallback": email_url(sink.url),
    }
    message = outbox.enqueue(Plain(user))

    assert "takes 'fallback' meanwhile" in run("pause_transport", "transport")
    pipeline.deliver(message.pk)

    assert len(sink.received) == 1


@pytest.mark.parametrize("command", ["pause_transport", "resume_transport"])
def test_an_unknown_transport_is_answered_with_those_that_exist(smtp: Sink, command: str) -> None:
    with pytest.raises(CommandError, match=r"has no transport 'pigeon'\. It has transport\."):
        run(command, "pigeon")


def test_an_unreadable_duration_is_answered_with_examples(smtp: Sink) -> None:
    with pytest.raises(CommandError, match="'soon' is not a duration; write 90s, 30m, 2h or 7d"):
        run("pause_transport", "transport", "--for", "soon")


def test_the_status_says_that_a_person_paused_it(smtp: Sink) -> None:
    run("pause_transport", "transport", "--reason", "audit")

    assert "The transport 'transport' has been paused by a person since 20" in run("mail_status")
