"""The actions about many messages: what is counted, what is kept, and what is asked first."""

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from mailer import outbox
from mailer.admin import decisions
from mailer.admin.history import record
from mailer.models import Message, State
from mailer.recipients.suppression import suppress
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db

LIST = "/admin/mailer/message/"


@pytest.fixture
def failed(user: User) -> list[Message]:
    messages = [outbox.enqueue(Plain(user)) for _ in range(3)]
    Message.objects.update(state=State.FAILED)
    return messages


def act(client: Client, action: str, *messages: Message, query: str = "", **fields: str) -> str:
    data = {"action": action, "_selected_action": [m.pk for m in messages], **fields}
    return client.post(LIST + query, data, follow=True).content.decode()


def pressed(*messages: Message) -> list[str]:
    entries = LogEntry.objects.filter(object_id__in=[str(message.pk) for message in messages])
    return [entry.get_change_message() for entry in entries]


@pytest.mark.parametrize(
    ("action", "state", "label", "to"),
    [
        ("retry", State.FAILED, "Retry", State.QUEUED),
        ("cancel", State.HELD, "Cancel", State.CANCELLED),
        ("mark_as_delivered", State.HELD, "Mark as delivered", State.SENT),
        ("resend", State.FAILED, "Send again", State.FAILED),
    ],
)
def test_who_pressed_what_is_kept_for_each_message_that_changed(
    operator: Client, failed: list[Message], action: str, state: State, label: str, to: State
) -> None:
    *changed, other = failed
    Message.objects.update(state=state)
    Message.objects.filter(pk=other.pk).update(state=State.QUEUED if action != "cancel" else State.SENT)

    page = act(operator, action, *failed)

    assert "; 1 skipped" in page
    assert pressed(*changed) == [label, label]
    assert pressed(other) == []
    assert {message.state for message in Message.objects.filter(pk__in=[m.pk for m in changed])} == {to}


def test_a_message_whose_key_is_taken_counts_as_skipped_and_nothing_is_kept(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user), key="welcome:1")
    Message.objects.update(state=State.FAILED)
    outbox.enqueue(Plain(user), key="welcome:1")

    assert "0 messages queued again; 1 skipped" in act(operator, "retry", message)
    assert pressed(message) == []


@pytest.mark.parametrize("action", ["retry", "resend"])
def test_all_messages_of_a_filter_are_counted_before_they_change(
    operator: Client, failed: list[Message], action: str
) -> None:
    page = act(operator, action, failed[0], query="?show=failed", select_across="1")

    assert f"3 messages {'queued again' if action == 'retry' else 'resent'}." in page
    assert "-" not in page.partition('class="messagelist"')[2].partition("</ul>")[0].replace("class=", "")


def test_what_cannot_be_sent_again_is_no_negative_number(operator: Client, failed: list[Message]) -> None:
    Message.objects.filter(pk__in=[m.pk for m in failed[1:]]).update(arguments={"account": 0})

    page = act(operator, "resend", *failed)

    assert "1 message resent." in page
    assert page.count("cannot be resent: user 0 ") == 2


@pytest.mark.parametrize(("action", "label"), [("retry", "Retry"), ("resend", "Send again")])
def test_a_suppressed_address_is_named_before_a_mail_to_it_is_tried(
    operator: Client, failed: list[Message], action: str, label: str
) -> None:
    suppress("ann@example.com", "550 no such user")

    question = act(operator, action, *failed)

    assert "3 of these 3 messages are to an address that gets no mail" in question
    assert "550 no such user" in question
    assert f"{label} anyway" in question
    assert Message.objects.filter(state=State.QUEUED).count() == 0

    answer = act(operator, action, *failed, anyway="yes")

    assert "3 messages" in answer
    assert Message.objects.filter(state=State.QUEUED).count() == 3


def test_the_question_is_asked_on_the_page_of_a_message_too(operator: Client, failed: list[Message]) -> None:
    suppress("ann@example.com", "550 no such user")
    page = reverse("admin:mailer_message_change", args=[failed[0].pk])
    data = {"CHANGE_FORM-action": "resend", "_selected_action": failed[0].pk}

    question = operator.post(page, data).content.decode()

    assert "This message is to an address that gets no mail." in question
    assert 'name="CHANGE_FORM-action" value="resend"' in question
    operator.post(page, data | {"anyway": "yes"})
    assert Message.objects.filter(resent_from=failed[0]).exists()


def test_a_cancel_needs_no_question(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user))
    suppress("ann@example.com", "550 no such user")

    assert "1 message cancelled." in act(operator, "cancel", message)


def test_too_many_copies_are_refused_with_the_limit(
    operator: Client, failed: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_RESENT", 2)

    assert "At most 2 messages are sent again at once; you chose 3. None was." in act(operator, "resend", *failed)
    assert Message.objects.count() == 3


def test_keeping_who_pressed_costs_the_same_for_any_number_of_messages(
    operator: Client, user: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    outbox.enqueue_many(Plain(user) for _ in range(40))
    messages = list(Message.objects.all())
    messages_of_log = Message.objects.only("kind")
    request = operator.get(LIST).wsgi_request
    record(request, messages[:2], "x")

    with django_assert_num_queries(2):
        record(request, messages_of_log, "Retry")

    assert LogEntry.objects.filter(change_message="Retry").count() == 40
