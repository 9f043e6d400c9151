"""Accounts in the admin."""

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import deletion, email_change, links, verification
from accounts.links import LinkState
from accounts.models import EmailChange, User
from accounts.sessions import Session
from tests.accounts.steps import ANN, NEW_PASSWORD, PASSWORD, is_in, log_in, mails_to, member

pytestmark = pytest.mark.django_db


@pytest.fixture
def administrator() -> Client:
    User.objects.create_superuser("admin@example.com", PASSWORD)
    return log_in("admin@example.com")


def save(client: Client, user: User, **data: object):  # type: ignore[no-untyped-def]
    user.refresh_from_db()
    fields = {"email": user.email, "name": user.name, "language": "en", "time_zone": "", "is_active": "on"}
    marks = {"is_staff": "on", "is_superuser": "on"} if user.is_superuser else {}
    return client.post(reverse("admin:accounts_user_change", args=[user.pk]), fields | marks | data)


def set_password(client: Client, user: User, password: str = NEW_PASSWORD):  # type: ignore[no-untyped-def]
    data = {"password1": password, "password2": password, "usable_password": "true", "set-password": "1"}
    return client.post(reverse("admin:auth_user_password_change", args=[user.pk]), data)


def stop(change: EmailChange) -> LinkState:
    code = links.code(links.STOP_CHANGE, change)
    return email_change.stop(change.pk, code).state


def test_changes_of_address_are_read_only(administrator: Client) -> None:
    email_change.request(member(), "new@example.com")
    change = EmailChange.objects.get()

    overview = administrator.get(reverse("admin:accounts_emailchange_changelist"))
    page = administrator.get(reverse("admin:accounts_emailchange_change", args=[change.pk]))

    assert (overview.status_code, page.status_code) == (200, 200)
    assert "new@example.com" in overview.content.decode()
    assert change.secret not in overview.content.decode() + page.content.decode()
    for action, arguments in (("add", []), ("change", [change.pk]), ("delete", [change.pk])):
        path = reverse(f"admin:accounts_emailchange_{action}", args=arguments)
        assert administrator.post(path, {"post": "yes"}).status_code == 403


def test_sessions_are_listed_without_their_keys(administrator: Client) -> None:
    """With the key of a session anyone could use it."""
    user = member()
    log_in()
    Client().post(reverse("resend"), {"email": ANN})
    key = user.sessions.get().session_key

    overview = administrator.get(reverse("admin:accounts_session_changelist"))

    assert ANN in overview.content.decode()
    assert key not in overview.content.decode()
    assert len(overview.context["cl"].result_list) == 2
    for action in ("change", "delete"):
        path = reverse(f"admin:accounts_session_{action}", args=[key])
        assert administrator.get(path).status_code == administrator.post(path).status_code == 403


def test_the_time_zone_can_be_set(administrator: Client) -> None:
    user = member()

    assert save(administrator, user, time_zone="Asia/Bangkok").status_code == 302

    assert User.objects.get(pk=user.pk).time_zone == "Asia/Bangkok"


@pytest.mark.parametrize(
    ("typed", "stored"), [("Asia/Bangok", ""), ("Mars/Phobos", ""), (" asia/bangkok ", "Asia/Bangkok"), ("utc", "UTC")]
)
def test_a_mistyped_time_zone_is_refused_or_corrected(administrator: Client, typed: str, stored: str) -> None:
    user = User.objects.create_user("ben@example.com")

    answer = save(administrator, user, time_zone=typed)

    assert User.objects.get(pk=user.pk).time_zone == stored
    if not stored:
        assert "There is no such time zone. Write it as in Asia/Bangkok." in answer.content.decode()


def test_a_new_name_ends_no_session(administrator: Client) -> None:
    user = member()
    browser = log_in()
    email_change.request(user, "new@example.com")

    save(administrator, user, name="Ann Example")

    assert is_in(browser)
    assert EmailChange.objects.get().is_open
    assert User.objects.get(pk=user.pk).has_verified_email


def test_a_new_address_ends_sessions_and_all_changes_of_address(administrator: Client) -> None:
    user = member()
    browser = log_in()
    email_change.request(user, "second@example.com")
    first = EmailChange.objects.get()
    email_change.confirm(first.pk, links.code(links.CONFIRM_CHANGE, first), password=None)
    email_change.request(user, "third@example.com")

    save(administrator, user, email="Given@Example.com")

    user.refresh_from_db()
    assert (user.email, user.has_verified_email, user.was_verified) == ("given@example.com", False, True)
    assert not is_in(browser)
    assert EmailChange.objects.filter(stopped_at=None).count() == 0
    assert stop(first) is LinkState.STOPPED


def test_a_new_password_ends_sessions_and_open_changes_of_address(administrator: Client) -> None:
    user = member()
    browser = log_in()
    email_change.request(user, "new@example.com")
    link = verification.begin(user)

    assert set_password(administrator, user).status_code == 302

    assert Session.objects.filter(user=user).count() == 0  # the row is deleted, not only its hash invalid
    assert not is_in(browser)
    assert not EmailChange.objects.get().is_open
    link.refresh_from_db()
    assert link.is_open  # it needs the password, which is the new one
    assert is_in(log_in(password=NEW_PASSWORD))
    assert mails_to(ANN)[-1] == ("PasswordChanged", "queued")


@pytest.mark.parametrize("switch", ["is_active", "is_staff"])
def test_what_is_switched_off_ends_sessions_for_good(administrator: Client, switch: str) -> None:
    user = User.objects.create_superuser(ANN, PASSWORD)
    browser = log_in()

    for value in ("", "on"):
        save(administrator, user, **{switch: value})

    user.refresh_from_db()
    assert (user.is_active, user.is_staff) == (True, True)
    assert not is_in(browser)


def test_an_open_session_changes_neither_its_own_password_nor_its_own_address(administrator: Client) -> None:
    """The site's pages ask for the password, notify the owner and can be undone."""
    admin = User.objects.get()

    for number in (str(admin.pk), f"0{admin.pk}", f" {admin.pk}"):
        url = reverse("admin:auth_user_password_change", args=[number])
        new = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true", "set-password": "1"}
        assert administrator.post(url, new).headers["Location"] == reverse("password_change")
    assert save(administrator, admin, email="thief@example.com", name="Boss").status_code == 302

    admin.refresh_from_db()
    assert (admin.email, admin.name, admin.has_verified_email) == ("admin@example.com", "Boss", True)
    assert admin.check_password(PASSWORD)
    assert is_in(administrator)


def test_users_verified_by_the_previous_release_are_not_purged_after_a_new_address(administrator: Client) -> None:
    """During a deploy, old processes verify users without setting `was_verified`."""
    user = User.objects.create_user(ANN, email_verified_at=timezone.now(), date_joined="2026-01-01T00:00Z")

    save(administrator, user, email="given@example.com")
    deletion.purge()

    assert User.objects.filter(pk=user.pk, email_verified_at=None, was_verified=True).exists()
