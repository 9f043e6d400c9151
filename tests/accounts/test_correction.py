"""Correct a mistyped address after sign-up."""

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from accounts.models import EmailVerification, User
from tests.accounts.steps import (
    ANN,
    PASSWORD,
    deliver_all,
    is_in,
    link_to,
    log_in,
    mails_to,
    member,
    sign_up,
    text_of,
)

pytestmark = pytest.mark.django_db

TYPO = "ann@exampel.com"


def correct(client: Client, email: str = ANN):  # type: ignore[no-untyped-def]
    return client.post(reverse("correct_address"), {"email": email}, follow=True)


def test_correcting_before_the_mail_is_sent_cancels_it(client: Client) -> None:
    page = sign_up(client, TYPO)
    assert reverse("correct_address") in page.content.decode()
    assert TYPO in client.get(reverse("correct_address")).content.decode()

    answer = correct(client)
    deliver_all()

    assert answer.redirect_chain == [(reverse("check_inbox"), 302)]
    assert ANN in answer.content.decode()
    assert (mails_to(TYPO), mails_to(ANN)) == ([("VerifyAddress", "cancelled")], [("VerifyAddress", "sent")])
    assert client.post(link_to(ANN)).context["state"] == "done"  # without the password: it is the same browser
    assert is_in(log_in(password=PASSWORD))


def test_correcting_after_the_mail_was_sent_ends_its_link(client: Client) -> None:
    sign_up(client, TYPO)
    deliver_all()
    dead = link_to(TYPO)

    correct(client)

    for answer in (client.get(dead), client.post(dead), Client().post(dead, {"password": PASSWORD})):
        assert (answer.status_code, answer.context["state"]) == (410, "superseded")
    assert not User.objects.filter(email_verified_at__isnull=False).exists()


def test_correcting_a_known_address_keeps_its_account_and_reuses_the_password(client: Client) -> None:
    bob = member("bob@example.com", "the password of Bob 1")
    sign_up(client, bob.email)

    correct(client)
    deliver_all()
    client.post(link_to(ANN))

    assert is_in(log_in(password=PASSWORD))
    assert is_in(log_in("bob@example.com", "the password of Bob 1"))
    assert mails_to("bob@example.com") == [("AccountExists", "sent")]


def test_correcting_to_a_known_address_looks_the_same(client: Client) -> None:
    member()
    other = Client()
    sign_up(client, TYPO)
    sign_up(other, "typo@exampel.com")

    known, unknown = correct(client), correct(other, "new@example.com")

    assert text_of(known).replace(ANN, "new@example.com") == text_of(unknown)
    assert not is_in(log_in(password="something else"))
    assert User.objects.get(email=ANN).has_verified_email


def test_the_same_address_again_changes_nothing(client: Client) -> None:
    sign_up(client)
    before = list(EmailVerification.objects.values())

    assert correct(client, "Ann@EXAMPLE.com").redirect_chain == [(reverse("check_inbox"), 302)]

    assert list(EmailVerification.objects.values()) == before
    assert mails_to(ANN) == [("VerifyAddress", "queued")]


def test_an_address_can_be_corrected_twice(client: Client) -> None:
    with time_machine.travel("2026-11-21 12:00Z", tick=False) as clock:
        sign_up(client)
        correct(client, TYPO)
        clock.shift(61)
        correct(client)
        deliver_all()

        assert mails_to(ANN) == [("VerifyAddress", "cancelled"), ("VerifyAddressAgain", "sent")]
        assert client.post(link_to(ANN), {"password": PASSWORD}).context["state"] == "done"


def test_an_invalid_address_is_refused_at_its_field(client: Client) -> None:
    sign_up(client, TYPO)

    answer = correct(client, "ann@")

    assert (answer.status_code, list(answer.context["form"].errors)) == (200, ["email"])
    assert User.objects.get().email == TYPO


def test_a_browser_that_did_not_sign_up_is_sent_to_the_sign_up_page(client: Client) -> None:
    for answer in (client.get(reverse("correct_address")), client.post(reverse("correct_address"), {"email": ANN})):
        assert answer["Location"] == reverse("signup")


@pytest.mark.parametrize("is_first", [True, False])
def test_an_attacker_who_signed_up_with_the_same_address_ends_no_link_of_the_owner(is_first: bool) -> None:
    owner, attacker = Client(), Client()
    for browser in (attacker, owner) if is_first else (owner, attacker):
        sign_up(browser, password="my own 7 horses" if browser is owner else "the 9 attackers words")

    correct(attacker, "evil@example.com")
    deliver_all()

    link = link_to(ANN)
    assert owner.post(link).context["state"] == "wrong_password"  # the button alone is not enough any more
    assert attacker.post(link).context["state"] == "wrong_password"
    assert owner.post(link, {"password": "my own 7 horses"}).context["state"] == "done"
    assert is_in(log_in(password="my own 7 horses"))
    assert not is_in(log_in(password="the 9 attackers words"))


def test_a_verified_address_cannot_be_corrected(client: Client) -> None:
    sign_up(client)
    deliver_all()
    client.post(link_to(ANN))

    assert correct(client, "other@example.com").redirect_chain == [(reverse("signup"), 302)]
    assert "sign_up" not in client.session
    assert [user.email for user in User.objects.all()] == [ANN]


@pytest.mark.parametrize("mark", ["verified", "verified once", "staff", "superuser"])
def test_correcting_deletes_no_verified_or_staff_account(client: Client, mark: str) -> None:
    sign_up(client)
    match mark:
        case "verified":
            deliver_all()
            Client().post(link_to(ANN), {"password": PASSWORD})
        case "verified once":
            User.objects.update(was_verified=True)
        case "staff":
            User.objects.update(is_staff=True)
        case "superuser":
            User.objects.update(is_superuser=True)

    correct(client, "other@example.com")

    assert sorted(User.objects.values_list("email", flat=True)) == [ANN, "other@example.com"]
