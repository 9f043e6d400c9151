"""A link that somebody follows who did not sign up: it asks for the password, or ends the account."""

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
    """The link in the mail that came when this client signed up."""
    sign_up(client)
    deliver_all()
    return link_to(ANN)


def test_in_the_browser_that_signed_up_the_button_is_enough(client: Client, link: str) -> None:
    page = client.get(link).content.decode()
    assert ('type="password"' in page, 'name="disown"' in page) == (False, False)

    assert client.post(link).context["state"] == "done"


def test_another_browser_needs_the_password(link: str) -> None:
    other = Client()
    page = other.get(link).content.decode()
    assert ('type="password"' in page, 'name="disown"' in page) == (True, True)

    for password in ({}, {"password": ""}, {"password": "wrong"}, {"password": "x" * 5000}):
        answer = other.post(link, password)
        assert (answer.status_code, answer.context["state"]) == (200, "wrong_password")
        assert not User.objects.get().is_verified
    assert other.post(link, {"password": PASSWORD}).context["state"] == "done"
    assert not is_in(other)
    assert is_in(log_in())


def test_a_browser_that_signed_up_with_a_known_address_needs_the_password_too(link: str) -> None:
    other = Client()
    sign_up(other, password="another passphrase 7")
    newest = User.objects.get().email_verifications.filter(superseded_at=None).get()
    path = reverse("verify", args=[newest.pk, links.code(links.VERIFY, newest)])

    for typed in ({}, {"password": "another passphrase 7"}):
        assert other.post(path, typed).context["state"] == "wrong_password"


def test_who_is_logged_in_needs_no_password_for_her_own_account_alone() -> None:
    ann, bob = member(), member("bob@example.com")
    browsers = {user: log_in(user.email) for user in (bob, ann)}
    User.objects.filter(pk=ann.pk).update(email_verified_at=None)
    opened = verification.begin(ann)
    path = reverse("verify", args=[opened.pk, links.code(links.VERIFY, opened)])

    assert browsers[bob].post(path).context["state"] == "wrong_password"
    assert browsers[ann].post(path).context["state"] == "done"


def test_the_owner_of_the_address_ends_an_account_that_is_not_hers(link: str) -> None:
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


def test_a_look_at_the_link_ends_nothing(link: str) -> None:
    Client().get(link, {"disown": "1"})

    assert User.objects.count() == 1


@pytest.mark.parametrize("mark", ["was_verified", "is_staff", "is_superuser"])
def test_an_account_that_matters_is_not_ended_and_the_page_does_not_say_so(link: str, mark: str) -> None:
    User.objects.update(**{mark: True})

    answer = Client().post(link, {"disown": "1"})

    assert User.objects.count() == 1
    assert answer.templates[0].name != "accounts/disowned.html"


@pytest.mark.parametrize("end", ["used_at", "superseded_at", "expires_at"])
def test_a_link_that_works_no_more_ends_nothing(link: str, end: str) -> None:
    EmailVerification.objects.update(**{end: timezone.now()})

    assert Client().post(link, {"disown": "1"}).status_code == 410
    assert User.objects.count() == 1


def test_who_was_verified_with_the_link_is_not_ended_by_it(client: Client, link: str) -> None:
    client.post(link)

    answer = Client().post(link, {"disown": "1"})

    assert (answer.status_code, answer.context["state"]) == (410, "used")
    assert is_in(log_in())


def test_the_browser_whose_account_was_disowned_can_sign_up_anew(client: Client, link: str) -> None:
    Client().post(link, {"disown": "1"})

    client.post(reverse("correct_address"), {"email": "other@example.com"})

    assert [user.email for user in User.objects.all()] == ["other@example.com"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("end", ["disown", "purge"])
def test_verifying_and_ending_at_the_same_time_end_in_one_or_the_other(end: str) -> None:
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
