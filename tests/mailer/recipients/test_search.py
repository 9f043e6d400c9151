"""Finding a person's mail by what an operator knows of it."""

import pytest

from accounts.models import User
from mailer import outbox
from mailer.models import Message
from mailer.recipients import search
from mailer.recipients.search import find
from mailer.recipients.suppression import suppress
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db


def message(recipient: str = "Ann.Lee@example.com", **fields: object) -> Message:
    number = Message.objects.count()
    return Message.objects.create(kind="x", recipient=recipient, message_id_header=f"<{number}@ours.example>", **fields)


@pytest.mark.parametrize(
    "text", ["ann.lee@example.com", " Ann <ANN.LEE@EXAMPLE.COM> ", "ann", "LEE", "n.lee@exam", "@example.com"]
)
def test_any_part_of_an_address_in_any_case_finds_its_messages(text: str) -> None:
    older, newer, _ = message(), message("ann.lee@example.com"), message("bob@other.example")

    found = find(text)

    assert list(found.messages) == [newer, older]
    assert found.addresses == ["ann.lee@example.com"]


@pytest.mark.parametrize("text", ["{pk}", "#{pk}", "1@ours.example", "<1@ours.example>"])
def test_a_number_and_a_message_id_find_one_message_and_its_person(text: str) -> None:
    message()
    wanted = message()

    found = find(text.format(pk=wanted.pk))

    assert list(found.messages) == [wanted]
    assert found.addresses == ["ann.lee@example.com"]


def test_a_part_of_a_subject_finds_messages() -> None:
    wanted = message(subject="Your Order 4711")
    message(subject="Welcome")

    assert list(find("order 4711").messages) == [wanted]
    assert list(find("welcom").messages.values_list("subject", flat=True)) == ["Welcome"]


def test_an_account_is_found_by_a_part_of_its_address_and_leads_to_mail_to_a_former_address(user: User) -> None:
    sent = outbox.enqueue(Plain(user))
    Message.objects.update(recipient="former@example.com")

    found = find("nn@exam")

    assert found.users == [user]
    assert list(found.messages) == [sent]


def test_another_one_of_several_recipients_is_found() -> None:
    wanted = message(answers={"Copy@example.com": "accepted"})
    message(answers={"other@example.com": "accepted"})

    assert list(find("Copy@example.com").messages) == [wanted]


def test_a_suppressed_address_without_mail_is_found() -> None:
    suppress("gone@example.com", "550 unknown")

    [suppression] = find("gone@").suppressions

    assert suppression.reason == "550 unknown"


def test_a_part_is_looked_for_in_old_messages_too_if_nothing_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LATELY", 1)
    old = message("anna@example.com")
    message("bob@example.com")

    assert list(find("nna").messages) == [old]


def test_messages_of_erased_persons_are_found_by_their_numbers_only() -> None:
    erased, _ = message(""), message("")

    assert list(find(str(erased.pk)).messages) == [erased]
    assert find(str(erased.pk)).addresses == ()
    assert not find("@").messages.exists()


@pytest.mark.parametrize(
    "text", ["", "  ", "\0", "9" * 30, "²", "%", "_", "nobody@example.com", "<>", "@", "a b@c", "'\"\\"]
)
def test_what_is_not_known_finds_nothing(text: str) -> None:
    message()

    found = find(text)

    assert not found or text == "@"
    assert text == "@" or list(found.messages) == []
