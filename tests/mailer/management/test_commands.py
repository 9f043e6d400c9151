"""The manage.py commands for operators."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from io import StringIO

import pytest
import time_machine
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.db.models.functions import Now
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.composing.templates import render
from mailer.emails import TestEmail
from mailer.management.operator import OperatorCommand
from mailer.models import Circuit, Message, State, Suppression, Worker
from mailer.signals import message_settled
from tests.environment import ENVIRONMENT
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


def run(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def test_a_test_mail_is_enqueued_and_its_admin_page_printed() -> None:
    assert "/admin/mailer/message/" in run("send_test_email", "ann@example.com")
    assert Message.objects.get().recipient == "ann@example.com"


@pytest.mark.django_db
def test_a_test_mail_says_when_it_was_asked_for() -> None:
    with time_machine.travel("2026-11-22 12:34:56Z", tick=False):
        run("send_test_email", "ann@example.com")

    test_mail = TestEmail.load(Message.objects.get().arguments)
    assert "Requested: 22 November 2026, 12:34:56 UTC" in render(test_mail, test_mail.recipient()).text


def test_a_test_mail_to_an_invalid_address_is_refused() -> None:
    with pytest.raises(CommandError, match="'ann': Enter a valid email address"):
        run("send_test_email", "ann")


@pytest.mark.django_db(transaction=True)  # its heartbeat has a connection of its own
def test_due_mail_is_delivered_without_a_broker_most_urgent_first(user: User, smtp: Sink) -> None:
    for queue in ("bulk", "critical"):
        message = outbox.enqueue(Plain(user, queue))
        Message.objects.filter(pk=message.pk).update(queue=queue)

    later = outbox.enqueue(Plain(user), delay=timedelta(hours=1))

    said = run("deliver_due")

    assert said.startswith("2 due messages tried; sent: 2.\n1 still waits: It was asked to be sent later.")
    later.delete()

    assert ["critical" in r.part("plain") for r in smtp.received] == [True, False]
    assert set(Message.objects.values_list("state", flat=True)) == {State.SENT}


def test_the_status_counts_states_as_text_and_as_json(user: User) -> None:
    outbox.enqueue(Plain(user))
    Message.objects.create(kind="x", recipient="a@example.com", message_id_header="<x>", state=State.FAILED)

    status = json.loads(run("mail_status", "--json"))

    assert (status["states"]["queued"], status["states"]["failed"], status["states"]["sent"]) == (1, 1, 0)
    assert "queued             1" in run("mail_status")


def test_the_status_counts_only_addresses_suppressed_for_all_mail() -> None:
    Suppression.objects.create(address="ann@example.com", stream="news", reason="unsubscribed")
    Suppression.objects.create(address="bob@example.com", reason="550")

    assert json.loads(run("mail_status", "--json"))["suppressed_addresses"] == 1


def test_nothing_waits_too_long(user: User) -> None:
    outbox.enqueue(Plain(user), delay=timedelta(days=1))
    outbox.enqueue(Plain(user))  # due now, and no worker is running

    status = json.loads(run("mail_status", "--json"))

    assert (status["waiting"], status["workers"], status["paused"]) == ({}, 0, [])


def unknown_kind(message: Message, settings: Settings) -> None:
    Message.objects.update(kind="shop.GoneWithTheLastRelease")
    run("deliver_due")  # it is put back, and due later
    Message.objects.update(troubled_since=Now() - timedelta(hours=1))
    assert Message.objects.filter(due_at__gt=Now()).exists()


def unknown_transport(message: Message, settings: Settings) -> None:
    Message.objects.update(transport="pigeon")


def unknown_queue(message: Message, settings: Settings) -> None:
    Message.objects.update(queue="urgent")


def no_worker(message: Message, settings: Settings) -> None:
    Worker.objects.update(seen_at=Now() - timedelta(hours=2))


def no_worker_of_the_queue(message: Message, settings: Settings) -> None:
    Worker.objects.update(queues=["bulk"])


def paused(message: Message, settings: Settings) -> None:
    Circuit.objects.create(
        transport="transport",
        paused_since=Now(),
        paused_until=Now() + timedelta(hours=1),
        reason="421 closed for lunch",
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("cause", "named"),
    [
        (unknown_kind, "shop.GoneWithTheLastRelease"),
        (unknown_transport, "pigeon"),
        (unknown_queue, "urgent"),
        (no_worker, "20"),  # the year since which none was seen
        (no_worker_of_the_queue, "default"),
        (paused, "421 closed for lunch"),
    ],
)
def test_what_waits_too_long_is_explained_with_its_number(
    user: User, settings: Settings, smtp: Sink, cause: Callable[[Message, Settings], None], named: str
) -> None:
    Worker.objects.create(host="host-1", pid=1, release="", queues=["critical", "default", "bulk"])
    messages = [outbox.enqueue(Plain(user)) for _ in range(2)]
    cause(messages[0], settings)
    Message.objects.filter(troubled_since=None).update(due_at=Now() - timedelta(hours=1))
    Worker.objects.filter(seen_at__gt=Now() - timedelta(minutes=1)).update(seen_at=Now())
    out = StringIO()

    with pytest.raises(CommandError, match="2 messages have waited for more than 300 s") as caught:
        call_command("mail_status", "--json", stdout=out)

    assert caught.value.returncode == 1
    [(sentence, number)] = json.loads(out.getvalue())["waiting"].items()
    assert named in sentence
    assert number == 2
    with pytest.raises(CommandError):
        call_command("mail_status", stdout=out)
    assert f"2 waiting too long: {sentence}" in out.getvalue()


def test_a_paused_transport_is_reported_although_nothing_waits(db: None) -> None:
    Circuit.objects.create(
        transport="transport",
        host="host-1",
        paused_since=Now(),
        paused_until=Now() + timedelta(hours=1),
        needs_person=True,
        reason="535 5.7.8 refused",
    )

    [circuit] = json.loads(run("mail_status", "--json"))["paused"]

    assert (circuit["transport"], circuit["host"], circuit["needs_person"]) == ("transport", "host-1", True)
    assert "535 5.7.8 refused" in run("mail_status")


def test_a_longer_wait_may_be_allowed(user: User) -> None:
    outbox.enqueue(Plain(user))
    Message.objects.update(due_at=Now() - timedelta(minutes=10))

    with pytest.raises(CommandError, match="1 message has waited"):
        run("mail_status")
    assert run("mail_status", "--longest", "900")


@pytest.mark.django_db(transaction=True)
def test_ctrl_c_ends_the_delivery_after_the_message_in_hand(user: User, smtp: Sink) -> None:
    for _ in range(2):
        outbox.enqueue(Plain(user))

    def interrupt(**_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    message_settled.connect(interrupt, sender=Plain)
    try:
        said = run("deliver_due")
    finally:
        message_settled.disconnect(interrupt, sender=Plain)

    assert said.startswith("1 due message tried; sent: 1.\n1 still waits: ")


def ask(*command: str, database: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *command],
        env={**os.environ, **ENVIRONMENT, "DATABASE_URL": database},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_database_that_accepts_a_connection_and_is_silent_is_one_sentence_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = ask("mail_status", database=f"postgres://nobody@127.0.0.1:{silent.getsockname()[1]}/nowhere")

    assert asked.returncode == 2
    assert asked.stderr.startswith("CommandError: The database does not answer: ")
    assert "Traceback" not in asked.stderr


REFUSED, MISSING = "postgres://nobody@127.0.0.1:1/nowhere", "postgres://{server}/no_such_database"


@pytest.mark.parametrize(
    ("url", "command"),
    [(REFUSED, ["mail_status", "--json"]), (MISSING, ["mail_status"]), (REFUSED, ["mail_log", "ann"])],
)
def test_without_a_database_the_status_is_one_sentence_and_exit_code_2(url: str, command: list[str]) -> None:
    server = ENVIRONMENT["DATABASE_URL"].removeprefix("postgres://").rpartition("/")[0]
    asked = ask(*command, database=url.format(server=server))

    assert asked.returncode == 2
    assert asked.stdout == ""
    assert asked.stderr.startswith("CommandError: The database does not answer: ")
    assert "Traceback" not in asked.stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker")
def test_the_sweep_and_the_purge_run_as_commands(user: User) -> None:
    outbox.enqueue_many([Plain(user)], delay=timedelta(hours=1))
    Message.objects.update(due_at=Now() - timedelta(minutes=1))

    assert run("sweep_outbox") == "0 claims of dead workers settled, 0 messages expired, 1 queue kicked.\n"
    assert run("purge_mail") == "0 messages older than 90 days deleted.\n"


def test_failed_mail_is_retried_by_id_or_state(user: User) -> None:
    failed = [outbox.enqueue(Plain(user)) for _ in range(3)]
    Message.objects.update(state=State.FAILED)

    assert run("requeue_mail", str(failed[0].pk)) == "1 message queued again.\n"
    assert run("requeue_mail", "--state", "failed") == "2 messages queued again.\n"
    with pytest.raises(CommandError, match="Give ids"):
        run("requeue_mail")


def test_operators_commands_work_while_a_kind_is_broken() -> None:
    ours = [name for name, app in get_commands().items() if app == "mailer"]

    assert {"deliver_due", "mail_status", "requeue_mail"} <= set(ours)
    commands = {name: load_command_class("mailer", name) for name in ours}
    assert [name for name, command in commands.items() if command.requires_system_checks] == []
    # Only this one asks no database.
    assert [name for name, command in commands.items() if not isinstance(command, OperatorCommand)] == ["preview_email"]
