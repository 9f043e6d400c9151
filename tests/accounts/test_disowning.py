"""A verification link in another browser: it needs the password, or deletes the account."""

from collections.abc import Callable
from functools import partial

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import deletion, links, verification
from accounts.emails import VerifyAddressAgain
from accounts.links import LinkState
from accounts.models import EmailVerification, User
from mailer import outbox
from mailer.models import Message
from tests.accounts.steps import ANN, PASSWORD, deliver_all, is_in, link_to, log_in, mails_to, member, sign_up
from tests.at_once import at_once

pytestmark = pytest.mark.django_db


@pytest.fixture
def link(client: Client) -> str:
    """Sign up and return the link in the mail."""
    sign_up(client)
    deliver_all()
    return link_to(ANN)


def test_the_browser_that_signed_up_needs_no_password(client: Client, link: str) -> None:
    page = client.get(link).content.decode()
    assert ('type="password"' in page, 'name="disown"' in page) == (False, False)

    assert client.post(link).context["state"] == "done"


def test_another_browser_needs_the_password(link: str) -> None:
    other = Client()
    page = other.get(link).content.decode()
    assert ('type="password"' in page, 'href="?disown"' in page) == (True, True)
    assert 'name="disown"' in other.get(link, {"disown": ""}).content.decode()

    for password in ({}, {"password": ""}, {"password": "wrong"}, {"password": "x" * 5000}):
        answer = other.post(link, password)
        assert (answer.status_code, answer.context["state"]) == (200, "wrong_password")
        assert not User.objects.get().has_verified_email
    assert other.post(link, {"password": PASSWORD}).context["state"] == "done"
    assert not is_in(other)
    assert is_in(log_in())


def test_of_two_sign_ups_the_one_who_reads_the_mail_verifies_with_their_own_password(client: Client, link: str) -> None:
    other = Client()
    sign_up(other, password="another passphrase 7")

    for browser in (client, other, Client()):
        assert browser.post(link).context["state"] == "wrong_password"
    assert Client().post(link, {"password": "another passphrase 7"}).context["state"] == "wrong_password"
    assert other.post(link, {"password": "another passphrase 7"}).context["state"] == "done"

    assert is_in(log_in(password="another passphrase 7"))
    assert not is_in(log_in(password=PASSWORD))


def test_a_password_of_a_sign_up_does_not_replace_that_of_a_verified_account() -> None:
    ann, attacker = member(), Client()
    sign_up(attacker, password="the 9 attackers words")
    User.objects.update(email_verified_at=None)  # as after a change by an administrator
    opened = verification.begin(ann)

    path = reverse("verify", args=[opened.pk, links.code(links.VERIFY, opened)])
    assert attacker.post(path, {"password": "the 9 attackers words"}).context["state"] == "wrong_password"


FIELDS: tuple[dict[str, str], ...] = (
    {"disown": "", "password": ""},
    {"disown": "1", "password": PASSWORD},
    {"disown": "1", "email": ANN},
    {"password": PASSWORD, "unknown": "1"},
)


@pytest.mark.parametrize("fields", FIELDS)
def test_a_form_with_fields_of_both_choices_changes_nothing(client: Client, link: str, fields: dict[str, str]) -> None:
    for browser in (Client(), client):
        assert browser.post(link, fields).context["state"] == "open"

    assert not User.objects.get().has_verified_email


def test_logged_in_users_need_no_password_for_their_own_account_only() -> None:
    ann, bob = member(), member("bob@example.com")
    browsers = {user: log_in(user.email) for user in (bob, ann)}
    User.objects.filter(pk=ann.pk).update(email_verified_at=None)
    opened = verification.begin(ann)
    path = reverse("verify", args=[opened.pk, links.code(links.VERIFY, opened)])

    assert browsers[bob].post(path).context["state"] == "wrong_password"
    assert browsers[ann].post(path).context["state"] == "done"


def test_the_owner_of_the_address_deletes_an_account_opened_by_others(link: str) -> None:
    outbox.enqueue(VerifyAddressAgain(ANN))

    answer = Client().post(link, {"disown": "1"})

    assert (answer.status_code, answer.templates[0].name) == (200, "accounts/disowned.html")
    assert answer["Referrer-Policy"] == "strict-origin"
    assert ANN in answer.content.decode()
    assert (User.objects.count(), EmailVerification.objects.count()) == (0, 0)
    deliver_all()
    assert mails_to(ANN) == [("VerifyAddress", "sent"), ("VerifyAddressAgain", "cancelled")]
    assert set(Message.objects.values_list("user", flat=True)) == {None}
    again = Client().post(link, {"disown": "1"})
    assert (again.status_code, again.context["state"]) == (404, "unknown")


def test_get_deletes_nothing(link: str) -> None:
    Client().get(link, {"disown": "1"})

    assert User.objects.count() == 1


@pytest.mark.parametrize("mark", ["was_verified", "is_staff", "is_superuser"])
def test_verified_and_staff_accounts_cannot_be_disowned_and_the_page_does_not_tell(link: str, mark: str) -> None:
    User.objects.update(**{mark: True})

    answer = Client().post(link, {"disown": "1"})

    assert User.objects.count() == 1
    assert answer.templates[0].name != "accounts/disowned.html"


@pytest.mark.parametrize("end", ["used_at", "superseded_at", "expires_at"])
def test_an_ended_link_deletes_nothing(link: str, end: str) -> None:
    EmailVerification.objects.update(**{end: timezone.now()})

    assert Client().post(link, {"disown": "1"}).status_code == 410
    assert User.objects.count() == 1


def test_a_used_link_does_not_delete_its_account(client: Client, link: str) -> None:
    client.post(link)

    answer = Client().post(link, {"disown": "1"})

    assert (answer.status_code, answer.context["state"]) == (410, "used")
    assert is_in(log_in())


def test_the_browser_of_a_disowned_account_can_sign_up_again(client: Client, link: str) -> None:
    Client().post(link, {"disown": "1"})

    client.post(reverse("correct_address"), {"email": "other@example.com"})

    assert [user.email for user in User.objects.all()] == ["other@example.com"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", ["disown", "purge"])
def test_of_a_concurrent_verification_and_deletion_one_succeeds(end: str) -> None:
    for round_ in range(10):
        user = User.objects.create_user(f"u{round_}@example.com", PASSWORD, date_joined="2026-01-01T00:00Z")
        opened = verification.begin(user)
        code = links.code(links.VERIFY, opened)
        ending = deletion.purge if end == "purge" else partial(verification.disown, opened.pk, code)
        both: list[Callable[[], object]] = [
            partial(verification.complete, opened.pk, code, password=None),
            ending,
        ]

        results, failures = at_once(both)

        assert failures == []
        state = next(result.state for result in results if isinstance(result, links.Link))
        assert state in (LinkState.DONE, LinkState.UNKNOWN)
        assert User.objects.filter(pk=user.pk).exists() is (state is LinkState.DONE)
