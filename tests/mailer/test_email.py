"""Kinds of e-mail: their names and fields, how fields are stored and loaded."""

from typing import ClassVar

import pytest
from django.core.management import call_command

from accounts.models import EmailVerification, User
from mailer import email
from mailer import outbox as mailer_outbox
from mailer.email import Email, Recipient, ReferenceGone, Stream
from mailer.models import Message, State
from mailer.testing.outbox import Outbox
from tests.mailer.kinds import Plain, Receipt


class Verified(Email):
    template: ClassVar = "email/test"

    verification: EmailVerification
    numbers: list[int]
    note: str | None = None
    other: User | None = None

    def recipient(self) -> Recipient:
        return Recipient(self.verification.address)


@pytest.mark.django_db
def test_fields_are_stored_as_keys_and_values_and_rows_are_loaded_again(user: User) -> None:
    verification = EmailVerification.objects.create(user=user, address=user.email)
    stored = Verified(verification, [1, 2]).arguments()
    assert stored == {"verification": str(verification.pk), "numbers": [1, 2], "note": None, "other": None}

    EmailVerification.objects.update(address="new@example.com")

    assert Verified.load(stored).recipient() == Recipient("new@example.com")


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["0b0b0b0b-0000-4000-8000-000000000000", "no uuid"])
def test_an_error_names_a_row_that_no_longer_exists(key: str) -> None:
    with pytest.raises(ReferenceGone, match=f"email verification {key} no longer exists"):
        Verified.load({"verification": key, "numbers": []})


def test_an_unsaved_instance_is_refused() -> None:
    with pytest.raises(TypeError, match=r"tests\.Plain\.account is a User that is not saved; save it first"):
        Plain(User(email="ann@example.com")).arguments()


@pytest.mark.django_db
def test_a_value_that_json_cannot_hold_is_refused(user: User) -> None:
    with pytest.raises(TypeError, match=r"tests\.Plain\.sent_by is a set; use a model instance or a JSON value"):
        Plain(user, {1, 2}).arguments()  # type: ignore[arg-type]


def test_defining_a_class_registers_its_kind() -> None:
    assert email.find("tests.Receipt") is Receipt
    with pytest.raises(email.UnknownKind, match=r"no e-mail of the kind 'tests\.Nothing' is defined"):
        email.find("tests.Nothing")


def test_two_classes_cannot_have_the_same_kind() -> None:
    with pytest.raises(TypeError, match=r"'tests\.Plain' is the kind of both"):
        type("Other", (Email,), {"kind": "tests.Plain", "__module__": __name__})
    assert email.find("tests.Plain") is Plain


def test_a_renamed_class_can_keep_the_name_of_its_kind() -> None:
    renamed = type("NewName", (Email,), {"kind": "tests.OldName", "__module__": __name__})

    assert email.find("tests.OldName") is renamed


class Renamed(Plain):
    """Has two former names."""

    aliases: ClassVar = ("tests.FormerName", "tests.FirstName")


class Descendant(Renamed):
    """A second kind."""


def test_a_renamed_kind_is_found_under_its_former_names_and_counted_once() -> None:
    assert Renamed.names() == ("tests.Renamed", "tests.FormerName", "tests.FirstName")
    assert [email.find(name) for name in Renamed.names()] == [Renamed] * 3
    assert email.kinds().count(Renamed) == 1


def test_former_names_are_not_inherited() -> None:
    assert Descendant.names() == ("tests.Descendant",)
    assert email.find("tests.FormerName") is Renamed


def test_kinds_are_sorted_by_name() -> None:
    names = [kind.kind for kind in email.kinds()]

    assert names == sorted(set(names))
    assert {"tests.Plain", "accounts.VerifyAddress", "mailer.DjangoMail"} <= set(names)


def test_a_former_name_that_is_in_use_is_refused_and_nothing_is_registered() -> None:
    before = dict(email.KINDS)

    with pytest.raises(TypeError, match=r"'tests\.Plain' is the kind of both"):
        type("Usurper", (Email,), {"aliases": ("tests.Plain",), "__module__": __name__})

    assert before == email.KINDS


def test_former_names_must_be_a_tuple() -> None:
    with pytest.raises(TypeError, match=r"Odd\.aliases is a str; write a tuple, as in \('tests\.Old',\)"):
        type("Odd", (Email,), {"aliases": "tests.Old", "__module__": __name__})


@pytest.mark.django_db
def test_rows_with_a_former_name_are_delivered(user: User, outbox: Outbox) -> None:
    mailer_outbox.enqueue(Renamed(user))
    Message.objects.update(kind="tests.FormerName")

    assert outbox.only(Renamed).kind == "tests.FormerName"
    [delivered] = outbox.deliver()
    assert delivered.state == State.SENT
    assert mailer_outbox.resend(delivered).kind == "tests.Renamed"


@pytest.mark.django_db
def test_rows_with_a_former_name_are_retried_with_the_others(user: User) -> None:
    for name in ("tests.FormerName", "tests.Renamed", "tests.Gone", "tests.Plain"):
        message = mailer_outbox.enqueue(Renamed(user))
        Message.objects.filter(pk=message.pk).update(kind=name, state=State.FAILED)

    call_command("requeue_mail", "--kind", "tests.Renamed")
    call_command("requeue_mail", "--kind", "tests.Gone")

    assert list(Message.objects.filter(state=State.FAILED).values_list("kind", flat=True)) == ["tests.Plain"]


@pytest.mark.parametrize("name", ["news", "News-2026", "0", "x" * 50])
def test_this_is_a_valid_name_of_a_stream(name: str) -> None:
    assert Stream(name, "News").name == name


@pytest.mark.parametrize(
    "name", ["", "-news", "my news", "news.", "näws", "news\n", "x" * 51, "a/b", "a_b", "<news>", "news\r\nBcc: x"]
)
def test_this_is_not_a_valid_name_of_a_stream(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs a name of at most 50 letters, digits and hyphens"):
        Stream(name, "News")


@pytest.mark.django_db
def test_an_optional_instance_is_loaded_again_too(user: User) -> None:
    verification = EmailVerification.objects.create(user=user, address=user.email)
    stored = Verified(verification, [], other=user).arguments()

    assert stored["other"] == user.pk
    assert Verified.load(stored).other == user


@pytest.mark.parametrize("name", ["user", "context", "template"])
def test_a_field_cannot_have_a_name_that_email_uses_itself(name: str) -> None:
    with pytest.raises(TypeError, match=f"Odd.{name}: Email uses this name itself"):
        type("Odd", (Email,), {"__annotations__": {name: str}, "__module__": __name__})
