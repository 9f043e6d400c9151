"""The manage.py commands for operators."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.models import Message, State, Suppression
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


def test_a_test_mail_to_an_invalid_address_is_refused() -> None:
    with pytest.raises(CommandError, match="'ann': Enter a valid email address"):
        run("send_test_email", "ann")


def test_due_mail_is_delivered_without_a_broker_most_urgent_first(user: User, smtp: Sink) -> None:
    for queue in ("bulk", "critical"):
        message = outbox.enqueue(Plain(user, queue))
        Message.objects.filter(pk=message.pk).update(queue=queue)

    assert run("deliver_due").startswith("2 due messages tried")

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


def test_the_sweep_and_the_purge_run_as_commands(user: User) -> None:
    Message.objects.filter(pk=outbox.enqueue(Plain(user)).pk).update(publish_at=timezone.now())

    assert run("sweep_outbox") == "1 messages published, 0 abandoned claims settled.\n"
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
    assert [name for name in ours if load_command_class("mailer", name).requires_system_checks] == []
