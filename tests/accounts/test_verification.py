"""Verification links."""

import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts import links, verification
from accounts.links import LinkState
from accounts.models import EmailVerification, User
from tests.at_once import at_once


def code_of(link: EmailVerification) -> str:
    return links.code(links.VERIFY, link)


def path_of(link: EmailVerification) -> str:
    return reverse("verify", args=[link.pk, code_of(link)])


@pytest.fixture
def link(user: User) -> EmailVerification:
    return verification.begin(user)


def test_get_shows_a_button_and_changes_nothing(client: Client, link: EmailVerification) -> None:
    for _ in range(3):
        response = client.get(path_of(link))
        assert response.status_code == 200
        assert client.head(path_of(link)).status_code == 200

    assert "<button" in response.content.decode()
    assert response["Referrer-Policy"] == "strict-origin"
    assert "no-store" in response["Cache-Control"]
    link.refresh_from_db()
    assert link.used_at is None


def test_post_verifies_once(client: Client, link: EmailVerification) -> None:
    link.user.set_password("a password 1")
    link.user.save()
    first, second = (client.post(path_of(link), {"password": "a password 1"}) for _ in range(2))

    assert (first.status_code, second.status_code) == (200, 410)
    assert second.context["state"] == "used"
    link.user.refresh_from_db()
    assert link.user.has_verified_email
    assert "_auth_user_id" not in client.session


@pytest.mark.django_db(transaction=True)
def test_of_twenty_concurrent_posts_one_verifies(link: EmailVerification) -> None:
    results, failures = at_once([partial(verification.complete, link.pk, code_of(link), password=None)] * 20)

    assert failures == []
    assert Counter(result.state for result in results) == {LinkState.DONE: 1, LinkState.USED: 19}


def test_a_link_expires_after_a_day(client: Client, link: EmailVerification) -> None:
    with time_machine.travel(link.created_at + timedelta(hours=23, minutes=59)):
        assert client.get(path_of(link)).status_code == 200
    with time_machine.travel(link.created_at + timedelta(hours=24, seconds=1)):
        for response in (client.get(path_of(link)), client.post(path_of(link))):
            assert (response.status_code, response.context["state"]) == (410, "expired")
            assert reverse("resend") in response.content.decode()
    link.user.refresh_from_db()
    assert not link.user.has_verified_email


def test_a_newer_link_supersedes_the_older_one(client: Client, link: EmailVerification) -> None:
    verification.begin(link.user)

    response = client.post(path_of(link))

    assert (response.status_code, response.context["state"]) == (410, "superseded")


@pytest.mark.parametrize("spoil", ["code", "id", "empty", "other row", "upper case", "=3D", ">", "cut off"])
def test_a_link_that_was_never_sent_is_unknown(client: Client, link: EmailVerification, spoil: str) -> None:
    code = code_of(link)
    other = EmailVerification.objects.create(
        user=User.objects.create_user("bob@example.com"), address="bob@example.com"
    )
    pk, code = {
        "code": (link.pk, code[:-1] + ("0" if code[-1] != "0" else "1")),
        "id": (uuid.uuid4(), code),
        "empty": (link.pk, "x"),
        "other row": (other.pk, code),
        "upper case": (link.pk, code.upper()),
        "=3D": (link.pk, f"=3D{code}"),
        ">": (link.pk, f"{code}>"),
        "cut off": (link.pk, code[:-1]),
    }[spoil]

    for response in (client.get(path := reverse("verify", args=[pk, code])), client.post(path)):
        assert (response.status_code, response.context["state"]) == (404, "unknown")


def test_a_link_does_not_verify_an_address_that_the_user_no_longer_has(client: Client, link: EmailVerification) -> None:
    User.objects.update(email="new@example.com")

    assert client.post(path_of(link)).context["state"] == "superseded"
    assert not User.objects.get().has_verified_email


def test_the_code_is_not_stored_and_depends_on_the_secret_key(link: EmailVerification, settings: Settings) -> None:
    code = code_of(link)
    link.refresh_from_db()
    assert all(code not in str(value) for value in vars(link).values())

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another" * 10, [settings.SECRET_KEY]
    assert code_of(link) != code
    assert verification.look_up(link.pk, code).state is LinkState.OPEN

    settings.SECRET_KEY_FALLBACKS = []
    assert verification.look_up(link.pk, code).state is LinkState.UNKNOWN


def test_links_in_mails_start_with_site_url(client: Client, link: EmailVerification, settings: Settings) -> None:
    settings.SITE_URL = "https://shop.example"

    assert links.to_verify(link) == f"https://shop.example{path_of(link)}"


@pytest.mark.django_db(transaction=True)
def test_verifying_while_a_new_link_is_requested_does_not_deadlock(user: User) -> None:
    everything_that_failed: list[Exception] = []
    for _ in range(10):
        link = verification.begin(user)
        EmailVerification.objects.update(created_at=timezone.now() - timedelta(minutes=2))
        code = code_of(link)
        actions: list[Callable[[], object]] = [
            partial(verification.complete, link.pk, code, password=None),
            partial(verification.open_link, user),
        ]
        everything_that_failed += at_once(actions)[1]
        User.objects.update(email_verified_at=None)

    assert everything_that_failed == []
