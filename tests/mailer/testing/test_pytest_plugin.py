"""The pytest fixture `outbox` for the tests of a project."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.core import mail
from django.core.mail import send_mail
from django.db import transaction

from accounts.models import User
from mailer import outbox as mailer_outbox
from mailer.composing.built_by_django import DjangoMail
from mailer.models import Message, State
from mailer.testing.outbox import Outbox
from tests.environment import ENVIRONMENT
from tests.mailer.kinds import Broken, Plain, Receipt, Shared

ROOT = Path(__file__).parents[3]


def test_uncommitted_messages_are_listed_and_rolled_back_ones_are_not(outbox: Outbox, user: User) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        mailer_outbox.enqueue(Receipt(user))
        assert [message.kind for message in outbox.messages] == ["tests.Receipt"]
        raise ZeroDivisionError
    message = mailer_outbox.enqueue(Plain(user))

    assert list(outbox) == outbox.messages == outbox.of(Plain) == [message]
    assert outbox.only(Plain) == message
    assert len(outbox) == 1


@pytest.mark.django_db(transaction=True)
def test_it_works_in_tests_that_commit(outbox: Outbox, user: User) -> None:
    mailer_outbox.enqueue(Plain(user))

    assert [message.state for message in outbox.deliver()] == [State.SENT]
    assert [sent.to for sent in mail.outbox] == [["Ann <ann@example.com>"]]


def test_a_message_can_be_built_before_it_is_sent(outbox: Outbox, user: User) -> None:
    mailer_outbox.enqueue(Shared(user, "see http://localhost:8000/a?b=c.", hidden=["bob@example.com"]))

    seen = outbox.mail(outbox.only(Shared))

    assert seen.to == ["Ann <ann@example.com>", "bob@example.com"]
    assert seen.subject
    assert seen.html.startswith("<!DOCTYPE html>")
    assert seen.links[0] == "http://localhost:8000/a?b=c"
    assert "see http://localhost:8000/a?b=c." in seen.text
    assert repr(seen).startswith(f"<mail {seen.subject!r} to Ann <ann@example.com>, bob@example.com:\n")
    assert mail.outbox == []


def test_due_messages_are_delivered_and_later_ones_with_after(outbox: Outbox, user: User) -> None:
    mailer_outbox.enqueue(Plain(user, "now"))
    mailer_outbox.enqueue(Plain(user, "soon"), delay=timedelta(seconds=30))
    mailer_outbox.enqueue(Plain(user, "late"), delay=timedelta(hours=3))

    assert len(outbox.deliver()) == 1
    assert len(outbox.deliver()) == 0
    assert len(outbox.deliver(after=timedelta(seconds=30))) == 1
    assert [message.state for message in outbox.messages] == [State.SENT, State.SENT, State.QUEUED]
    assert len(mail.outbox) == 2


def test_send_mail_is_enqueued_and_delivered(outbox: Outbox) -> None:
    send_mail("Hello", "Read http://localhost:8000/.", None, ["ann@example.com"], html_message="<p>Hello</p>")
    assert mail.outbox == []

    seen = outbox.mail(outbox.only(DjangoMail))
    assert (seen.subject, seen.html, seen.links) == ("Hello", "<p>Hello</p>", ["http://localhost:8000/"])
    outbox.deliver()

    assert [sent.subject for sent in mail.outbox] == ["Hello"]


def test_the_error_about_a_missing_message_lists_the_outbox(outbox: Outbox, user: User) -> None:
    with pytest.raises(AssertionError, match=r"expected one tests\.Plain, found 0\. The outbox is empty\."):
        outbox.only(Plain)
    mailer_outbox.enqueue(Broken(user))
    outbox.deliver()

    with pytest.raises(AssertionError) as caught:
        outbox.only(Plain)

    first, second = str(caught.value).splitlines()
    assert first == "expected one tests.Plain, found 0. The outbox has:"
    assert second.startswith(
        f"  #{Message.objects.get().pk} tests.Broken to ann@example.com, failed: could not be built"
    )
    assert repr(outbox) == "<outbox: tests.Broken failed>"


TESTS = """
from django.core import mail
from django.test import TestCase
import pytest

from accounts.models import User
from mailer import outbox as mailer_outbox
from mailer.emails import TestEmail
from mailer.testing.outbox import Outbox


def test_without_a_mark(outbox):
    mailer_outbox.enqueue(TestEmail("ann@example.com", "a test"))
    assert outbox.deliver()[0].state == "sent"
    assert len(mail.outbox) == 1


@pytest.mark.django_db(transaction=True)
def test_with_transactions(outbox):
    mailer_outbox.enqueue(TestEmail("ann@example.com", "a test"))
    outbox.deliver()
    assert len(mail.outbox) == 1


class InATestCase(TestCase):
    @pytest.fixture(autouse=True)
    def ask(self, outbox):
        self.outbox = outbox

    def test_it(self):
        mailer_outbox.enqueue(TestEmail("ann@example.com", "a test"))
        self.outbox.deliver()
        assert len(mail.outbox) == 1


def test_that_fails(outbox):
    mailer_outbox.enqueue(TestEmail("ann@example.com", "a test"))
    assert len(outbox) == 2
"""


@pytest.mark.parametrize("by", ["option", "conftest"])
def test_a_project_enables_it_by_an_option_or_in_its_conftest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    path, _, _ = ENVIRONMENT["DATABASE_URL"].rpartition("/")
    monkeypatch.setenv("DATABASE_URL", f"{path}/of_a_project_{by}")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")  # no broker needed
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(TESTS)
    if by == "conftest":
        pytester.makeconftest('pytest_plugins = ["mailer.testing.pytest_plugin"]')
    option = ["-p", "mailer.testing.pytest_plugin"] if by == "option" else []

    result = pytester.runpytest_subprocess(
        *option, "--ds=config.settings", "--no-migrations", "-p", "no:randomly", "-p", "no:cacheprovider"
    )

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*where 1 = len(<outbox: mailer.TestEmail queued>)*"])
