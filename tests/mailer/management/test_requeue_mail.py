"""`requeue_mail`: retry held or failed messages by filter."""

import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.models import Message, State
from tests.mailer.kinds import Bulletin, Plain

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("requeue_mail", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def wanted(user: User) -> Message:
    """The only message that each filter of `test_a_filter…` matches."""
    wanted = outbox.enqueue(Plain(user))
    fields = {"state": State.FAILED, "settled_at": Now(), "recipient": "Ann@example.com", "reason": "452 Mailbox full"}
    Message.objects.update(**fields)
    other = outbox.enqueue(Bulletin(user))
    Message.objects.filter(pk=other.pk).update(
        state=State.HELD, due_at=Now() - timedelta(days=2), recipient="bob@example.com", reason="no answer"
    )
    sent = outbox.enqueue(Plain(user))
    Message.objects.filter(pk=sent.pk).update(**fields | {"state": State.SENT})
    return wanted


@pytest.mark.parametrize(
    "chosen",
    [
        ["--state", "failed"],
        ["--kind", "tests.Plain"],
        ["--to", "ANN@example.com"],
        ["--since", "2h"],
        ["--reason", "mailbox FULL"],
        ["--state", "failed", "--since", "2020-01-01", "--until", "2099-01-01T10:00"],
    ],
)
def test_a_filter_chooses_messages(wanted: Message, chosen: list[str]) -> None:
    assert run(*chosen) == "1 message queued again.\n"

    wanted.refresh_from_db()
    assert wanted.state == State.QUEUED


def test_until_chooses_what_was_held_before(wanted: Message) -> None:
    assert run("--until", "1d") == "1 message queued again.\n"
    assert Message.objects.get(kind="tests.Bulletin").state == State.QUEUED


def test_a_dry_run_counts_and_shows_some_and_changes_nothing(wanted: Message) -> None:
    shown = run("--since", "3d", "--dry-run")

    assert shown.startswith("2 messages would be queued again")
    assert f"For example #{wanted.pk} to Ann@example.com: 452 Mailbox full" in shown
    assert not Message.objects.filter(state=State.QUEUED).exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Give ids, --state"),
        (["--since", "yesterday"], "'yesterday' is not a time; write 2h"),
        (["--since", "99999999999999d"], "is not a time"),
        (["--to", ""], "'' is not an address"),
        (["--to", "ann"], "'ann' is not an address; write it whole"),
        (["--state", "failed", "--reason", " "], "it is empty"),
        (["12a"], "'12a' is not the number of a message"),
        (["9" * 40], "is not the number of a message"),
    ],
)
def test_a_mistyped_argument_is_answered_with_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match=re.escape(sentence)):
        run(*arguments)


def test_a_time_that_no_clock_shows_matches_nothing(wanted: Message) -> None:
    assert run("--until", "0001-01-01") == "0 messages queued again.\n"
