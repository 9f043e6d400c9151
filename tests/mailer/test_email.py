"""What a kind of e-mail is: its fields, how they are stored, and how they come back."""

from typing import ClassVar

import pytest

from accounts.models import EmailVerification, User
from mailer import email, rendering
from mailer.email import Email, Recipient, ReferenceGone
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
def test_fields_are_stored_as_keys_and_values_and_loaded_afresh(user: User) -> None:
    verification = EmailVerification.objects.create(user=user, address=user.email)
    stored = Verified(verification, [1, 2]).arguments()
    assert stored == {"verification": str(verification.pk), "numbers": [1, 2], "note": None, "other": None}

    EmailVerification.objects.update(address="new@example.com")

    assert Verified.load(stored).recipient() == Recipient("new@example.com")


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["0b0b0b0b-0000-4000-8000-000000000000", "no uuid"])
def test_a_row_that_is_gone_is_named(key: str) -> None:
    with pytest.raises(ReferenceGone, match=f"email verification {key} exists no more"):
        Verified.load({"verification": key, "numbers": []})


def test_an_instance_that_is_not_saved_is_refused() -> None:
    with pytest.raises(TypeError, match=r"tests\.Plain\.account is a User that is not saved; save it first"):
        Plain(User(email="ann@example.com")).arguments()


@pytest.mark.django_db
def test_a_value_that_json_cannot_hold_is_refused(user: User) -> None:
    with pytest.raises(TypeError, match=r"tests\.Plain\.sent_by is a set; use a model instance or a JSON value"):
        Plain(user, {1, 2}).arguments()  # type: ignore[arg-type]


def test_a_kind_is_registered_by_being_defined() -> None:
    assert email.find("tests.Receipt") is Receipt
    with pytest.raises(email.UnknownKind, match=r"no e-mail of the kind 'tests\.Nothing' is defined"):
        email.find("tests.Nothing")


def test_two_classes_cannot_be_one_kind() -> None:
    with pytest.raises(TypeError, match=r"'tests\.Plain' is the kind of both"):
        type("Other", (Email,), {"kind": "tests.Plain", "__module__": __name__})
    assert email.find("tests.Plain") is Plain


def test_a_renamed_class_keeps_the_name_of_its_rows() -> None:
    renamed = type("NewName", (Email,), {"kind": "tests.OldName", "__module__": __name__})

    assert email.find("tests.OldName") is renamed


def test_every_kind_that_ships_builds_from_its_sample() -> None:
    ours = {name: kind for name, kind in email.KINDS.items() if not name.startswith("tests.")}
    assert {"accounts.VerifyAddress", "accounts.AccountExists", "mailer.TestEmail"} <= ours.keys()
    for kind in ours.values():
        sample = kind.sample()
        for language in ("en", "th"):
            recipient = Recipient(sample.recipient().address, language=language)
            content = rendering.render(sample, recipient)
            assert content.subject
            assert content.html.count("<!DOCTYPE html>") == 1
            assert f'lang="{language}"' in content.html
            assert "{{" not in content.text + content.html


@pytest.mark.django_db
def test_an_optional_instance_is_loaded_afresh_as_well(user: User) -> None:
    verification = EmailVerification.objects.create(user=user, address=user.email)
    stored = Verified(verification, [], other=user).arguments()

    assert stored["other"] == user.pk
    assert Verified.load(stored).other == user


@pytest.mark.parametrize("name", ["user", "context", "template"])
def test_a_field_cannot_have_a_name_that_email_uses_itself(name: str) -> None:
    with pytest.raises(TypeError, match=f"Odd.{name}: Email uses this name itself"):
        type("Odd", (Email,), {"__annotations__": {name: str}, "__module__": __name__})
