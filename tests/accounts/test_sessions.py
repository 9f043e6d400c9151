"""The list of a user's sessions, and ending them."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts import second_factor, sessions, signup
from accounts.models import User
from accounts.sessions import Session
from tests.accounts.steps import PASSWORD, is_in, log_in, member, sign_up

pytestmark = pytest.mark.django_db

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:150.0) Gecko/20100101 Firefox/150.0"
EDGE = "Mozilla/5.0 (X11; Linux) AppleWebKit/537.36 Chrome/150.0 Safari/537.36 Edg/150.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 20_0 like Mac OS X) AppleWebKit/605.1.15 Version/20.0 Safari/604.1"


@pytest.mark.parametrize(
    ("agent", "shown"),
    [
        (FIREFOX, "Firefox, Windows"),
        (EDGE, "Edge, Linux"),
        (SAFARI, "Safari, iPhone"),
        ("curl/8 <script>alert(1)</script>", ""),
        ("", ""),
    ],
)
def test_a_browser_is_described_without_text_from_the_client(agent: str, shown: str) -> None:
    user = member()
    browser = log_in(user_agent=agent)

    page = browser.get(reverse("profile")).content.decode()

    session = user.sessions.get()
    assert (session.browser, session.network) == (shown, "127.0.0.0/24")
    assert session.logged_in_at is not None
    assert (shown or "Unknown browser") in page
    assert "an address that begins with 127.0.0<" in page
    assert "127.0.0.1" not in page
    assert "alert(1)" not in page
    assert "Mozilla" not in page
    assert session.session_key not in page


def test_the_list_shows_the_users_own_unexpired_sessions() -> None:
    with time_machine.travel(timezone.now() - timedelta(days=15)):
        member()
        log_in(user_agent=EDGE)  # expires after two weeks
    member("bob@example.com")
    log_in("bob@example.com", user_agent=SAFARI)
    here = log_in(user_agent=FIREFOX)
    Client().get(reverse("signup"))

    listed = here.get(reverse("profile")).context["sessions"]

    assert [session.browser for session in listed] == ["Firefox, Windows"]


def test_log_out_everywhere_else_keeps_this_browser_and_other_users() -> None:
    member()
    member("bob@example.com")
    here, there, bob = log_in(), log_in(), log_in("bob@example.com")

    assert here.get(reverse("end_sessions")).status_code == 405
    answer = here.post(reverse("end_sessions"))

    assert answer["Location"] == reverse("profile")
    assert (is_in(here), is_in(there), is_in(bob)) == (True, False, True)


def test_ending_sessions_needs_a_log_in(client: Client) -> None:
    member()
    browser = log_in()

    assert reverse("login") in client.post(reverse("end_sessions"))["Location"]
    assert is_in(browser)


def test_the_description_of_a_session_is_kept_in_later_requests() -> None:
    user = member()
    browser = log_in(user_agent=FIREFOX)
    before = user.sessions.get()
    with time_machine.travel(timezone.now() + timedelta(hours=1)):
        browser.post(reverse("password_reset"), {"email": "ann@example.com"})  # writes into the session

    after = user.sessions.get()
    assert (after.browser, after.logged_in_at) == ("Firefox, Windows", before.logged_in_at)
    assert after.session_data != before.session_data


def test_log_out_and_log_in_delete_the_old_session(client: Client) -> None:
    user = member()
    browser = log_in()
    browser.post(reverse("logout"))
    assert user.sessions.count() == 0

    browser.post(reverse("login"), {"username": user.email, "password": "wrong"})
    assert Session.objects.exclude(user=None).count() == 0


def test_the_browser_of_a_deleted_user_is_asked_to_log_in() -> None:
    user = member()
    browser = log_in()

    user.delete()

    assert Session.objects.count() == 0
    assert browser.get(reverse("profile")).status_code == 302
    assert browser.get(reverse("home")).status_code == 200
    assert browser.post(reverse("end_sessions")).status_code == 302


def test_ending_sessions_returns_their_number() -> None:
    user = member()
    here, _, _ = log_in(), log_in(), log_in()

    assert sessions.end_sessions(user, except_key=here.session.session_key) == 2
    assert sessions.end_sessions(user) == 1


def test_a_leaked_row_gives_no_access() -> None:
    user = member()
    browser = log_in()
    row = user.sessions.get()
    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = row.session_key

    assert is_in(browser)
    assert not is_in(thief)
    assert browser.cookies[settings.SESSION_COOKIE_NAME].value not in (row.session_key, row.session_data)


@pytest.mark.parametrize("page", ["delete", "changelist"], ids=["one user", "in bulk"])
def test_the_page_before_a_deletion_names_no_key(page: str) -> None:
    user = member()
    key = log_in().cookies[settings.SESSION_COOKIE_NAME].value
    User.objects.create_superuser("root@example.com", PASSWORD)
    administrator = log_in("root@example.com")

    if page == "delete":
        answer = administrator.get(reverse("admin:accounts_user_delete", args=[user.pk]))
    else:
        form = {"action": "delete_selected", "_selected_action": user.pk}
        answer = administrator.post(reverse("admin:accounts_user_changelist"), form)

    assert f"session of user {user.pk}" in answer.content.decode().lower()
    assert key not in answer.content.decode()


def test_a_session_that_ends_is_gone_from_the_table() -> None:
    user = member()
    browser = log_in()

    browser.post(reverse("logout"))

    assert not user.sessions.exists()


def test_a_session_outlives_the_rotation_of_the_key(settings: Settings) -> None:
    member()
    browser = log_in()

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another" * 10, [settings.SECRET_KEY]
    rotated = is_in(browser)
    fresh = log_in()
    settings.SECRET_KEY_FALLBACKS = []

    assert rotated
    assert is_in(fresh)


def test_a_log_in_at_the_admin_is_described_too() -> None:
    user = User.objects.create_superuser("ann@example.com", PASSWORD)
    browser = Client(headers={"user-agent": FIREFOX}, REMOTE_ADDR="192.0.2.77")
    browser.post(reverse("admin:login"), {"username": user.email, "password": PASSWORD})

    session = user.sessions.get()
    assert (session.browser, session.network) == ("Firefox, Windows", "192.0.2.0/24")
    assert session.logged_in_at


@pytest.mark.parametrize("end", ["by the owner", "by an operator"])
def test_a_session_that_ends_during_a_request_does_not_come_back_under_another_key(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = member()
    owner, thief = log_in(), log_in()
    sign_up(thief, "one@example.com")

    def during(*args: Any, **options: Any) -> None:
        if end == "by the owner":
            owner.post(reverse("end_sessions"))
        else:
            second_factor.reset(user)

    monkeypatch.setattr(signup, "sign_up_hashed", during)
    answer = thief.post(reverse("correct_address"), {"email": "two@example.com"})

    assert answer.status_code == 400
    assert not is_in(thief)
    assert is_in(owner) is (end == "by the owner")
