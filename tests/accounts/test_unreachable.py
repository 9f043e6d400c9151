"""A person whose mail comes back sees it on the site, and gets mail again when one arrives."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts import email_change, links, verification
from accounts.models import EmailChange, EmailVerification, User
from mailer.models import Cause, Suppression
from mailer.recipients.suppression import suppress
from tests.accounts.steps import ANN, log_in, member, sign_up

pytestmark = pytest.mark.django_db

CAME_BACK = "our e-mail came back"


def seen(client: Client, page: str) -> str:
    return client.get(reverse(page)).content.decode()


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (Cause.BOUNCE, CAME_BACK),
        (Cause.BOUNCES, CAME_BACK),
        (Cause.COMPLAINT, "reported as spam"),
        (Cause.OPERATOR, "at the moment"),
    ],
)
def test_the_profile_says_why_no_mail_comes(cause: Cause, words: str) -> None:
    user = member()
    client = log_in()
    assert 'role="alert"' not in seen(client, "profile")
    suppress(user.email.upper(), "550", cause=cause)
    assert words in seen(client, "profile")
    assert 'role="alert"' in seen(client, "profile")


def test_an_unsubscribe_is_no_alarm() -> None:
    user = member()
    client = log_in()
    suppress(user.email, "", stream="news", cause=Cause.UNSUBSCRIBE)
    assert 'role="alert"' not in seen(client, "profile")


@pytest.mark.parametrize("is_known", [True, False])
def test_who_signed_up_with_a_mistyped_address_can_correct_it(client: Client, is_known: bool) -> None:
    if is_known:
        member()
    sign_up(client, ANN)
    assert CAME_BACK not in seen(client, "check_inbox")
    suppress(ANN, "550 5.1.1 no such user")
    page = seen(client, "check_inbox")
    assert CAME_BACK in page
    assert "5.1.1" not in page
    assert reverse("correct_address") in page


@pytest.mark.parametrize("cause", [Cause.COMPLAINT, Cause.OPERATOR])
def test_a_stranger_does_not_learn_that_the_owner_complained(client: Client, cause: Cause) -> None:
    member()
    suppress(ANN, "550", cause=cause)
    sign_up(client, ANN)
    assert 'role="alert"' not in seen(client, "check_inbox")


@pytest.mark.parametrize(
    ("cause", "is_left"),
    [(Cause.BOUNCE, False), (Cause.BOUNCES, False), (Cause.COMPLAINT, True), (Cause.OPERATOR, True)],
)
def test_a_link_that_is_followed_shows_that_mail_arrives(client: Client, cause: Cause, is_left: bool) -> None:
    sign_up(client, ANN)
    suppress(ANN, "550", cause=cause)
    link = EmailVerification.objects.get()
    verification.complete(link.pk, links.code(links.VERIFY, link), password=None)
    assert Suppression.objects.exists() is is_left


def test_a_successful_change_of_address_lifts_what_stops_mail_to_the_new_one() -> None:
    user = member()
    suppress(user.email, "550 5.2.2 full", cause=Cause.BOUNCES)
    email_change.request(user, "ann@new.example")
    suppress("ann@new.example", "550", cause=Cause.BOUNCE)
    change = EmailChange.objects.get()
    email_change.confirm(change.pk, links.code(links.CONFIRM_CHANGE, change), password=None)
    assert list(Suppression.objects.values_list("address", flat=True)) == [user.email]
    assert User.objects.get().email == "ann@new.example"
