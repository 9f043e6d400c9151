"""The profile: name, language and time zone."""

from email.utils import parseaddr

import pytest
from django.core import mail
from django.test import Client
from django.urls import reverse

from accounts import email_change
from accounts.models import User
from tests.accounts.steps import deliver_all, log_in, member

pytestmark = pytest.mark.django_db


def save(client: Client, **data: str):  # type: ignore[no-untyped-def]
    return client.post(reverse("profile"), {"name": "Ann", "language": "en", "time_zone": ""} | data)


def test_mails_use_the_name_language_and_time_zone_of_the_profile() -> None:
    member()
    browser = log_in()

    answer = save(browser, name="Ann Example", language="th", time_zone="Asia/Bangkok")

    assert (answer.status_code, answer["Location"]) == (302, reverse("profile"))
    user = User.objects.get()
    assert (user.name, user.language, user.time_zone) == ("Ann Example", "th", "Asia/Bangkok")
    assert '<html lang="th"' in browser.get(reverse("profile")).content.decode()

    email_change.request(user, "new@example.com")
    deliver_all()
    assert [f"Ann Example <{user.email}>"] in [sent.to for sent in mail.outbox]
    written = next(sent for sent in mail.outbox if "new@example.com" in sent.to[0])
    assert "+07" in str(written.body)


def test_log_in_sets_the_users_language() -> None:
    member()
    User.objects.update(language="th")

    browser = log_in()

    assert browser.cookies["django_language"].value == "th"
    browser.post(reverse("logout"))
    assert '<html lang="th"' in browser.get(reverse("login")).content.decode()


@pytest.mark.parametrize(
    ("field", "value"),
    [("time_zone", "Mars/Olympus"), ("time_zone", "../../etc/passwd"), ("language", "xx"), ("name", "x" * 151)],
)
def test_an_invalid_choice_is_refused_at_its_field(field: str, value: str) -> None:
    before = member()

    answer = save(log_in(), **{field: value})

    assert (answer.status_code, list(answer.context["form"].errors)) == (200, [field])
    after = User.objects.get()
    assert (after.name, after.language, after.time_zone) == (before.name, before.language, before.time_zone)


@pytest.mark.parametrize("stored", ["Asia/Bangok", "asia/bangkok", "Mars/Phobos", "Asia", "../../etc/passwd", "x" * 50])
def test_a_time_zone_that_does_not_exist_stops_neither_pages_nor_mail(stored: str) -> None:
    user = member()
    User.objects.update(time_zone=stored, is_staff=True)
    browser = log_in()

    assert browser.get(reverse("profile")).status_code == 200
    assert browser.get(reverse("second_factor"), follow=True).status_code == 200
    email_change.request(User.objects.get(), "new@example.com")
    deliver_all()
    assert user.email in [address for sent in mail.outbox for address in (parseaddr(to)[1] for to in sent.to)]
    assert save(browser, time_zone="Asia/Bangkok").status_code == 302


def test_the_profile_form_changes_no_other_field() -> None:
    member()

    save(log_in(), email="evil@example.com", is_staff="on", password="evil", email_verified_at="")

    user = User.objects.get()
    assert (user.email, user.is_staff, user.has_verified_email) == ("ann@example.com", False, True)
    assert user.check_password("correct horse 9 battery")


def test_a_name_is_escaped_in_html_and_in_headers() -> None:
    member()
    browser = log_in()
    save(browser, name="<b>Ann</b>\r\nBcc: evil@example.com")

    assert "<b>Ann</b>" not in browser.get(reverse("profile")).content.decode()
    email_change.request(User.objects.get(), "new@example.com")
    deliver_all()
    for sent in mail.outbox:
        assert "\n" not in sent.to[0]
        assert (len(sent.to), sent.bcc) == (1, [])
