"""`mail_log WHO`: a person's mail in a terminal."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.models import DeliveryAttempt, Message, Outcome, State
from mailer.recipients.suppression import suppress
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("mail_log", *arguments, stdout=out)
    return out.getvalue()


def refused(message: Message) -> None:
    Message.objects.filter(pk=message.pk).update(
        state=State.FAILED, reason="550 5.1.1 no such user", attempts=1, subject="Your order", settled_at=Now()
    )
    DeliveryAttempt.objects.create(
        message=message,
        number=1,
        transport="transport",
        worker="host-1",
        started_at=Now() - timedelta(seconds=2),
        finished_at=Now(),
        outcome=Outcome.REFUSED_FOR_GOOD,
        phase="RCPT",
        code="550",
        response="5.1.1 no such user",
    )


def test_a_single_mail_is_shown_with_account_suppression_explanation_and_attempts(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    refused(message)
    suppress("ann@example.com", "550 5.1.1 no such user", message)

    shown = run("ANN@exam")

    assert f"Account {user.pk}: ann@example.com" in shown
    assert "ann@example.com gets no mail at all since 20" in shown
    assert f"#{message.pk}  failed  tests.Plain  'Your order'" in shown
    assert "Failed: 550 5.1.1 no such user." in shown
    assert "refused for good after 2000 ms: RCPT 550 5.1.1 no such user" in shown
    assert shown.count(" UTC") >= 4


def test_several_mails_are_shown_newest_first_and_their_attempts_when_asked_for(user: User) -> None:
    older, newer = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    refused(older)

    shown = run("ann@example.com")

    assert shown.index(f"#{newer.pk} ") < shown.index(f"#{older.pk} ")
    assert "RCPT 550" not in shown
    assert "RCPT 550" in run("ann@example.com", "--attempts")
    assert "Older mails are not shown" in run("ann@example.com", "--limit", "1")


def test_a_stream_that_was_unsubscribed_is_named(user: User) -> None:
    suppress("ann@example.com", "unsubscribed", stream="news")

    assert "gets no mail of the stream news since" in run("ann@example.com")


def test_a_person_who_is_not_known_is_one_sentence_and_exit_code_1() -> None:
    with pytest.raises(CommandError, match="Nothing is known of 'eve'") as caught:
        run("eve")

    assert caught.value.returncode == 1
