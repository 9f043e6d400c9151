"""Attacks on other users' accounts that worked once."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.mail import send_mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import deletion, email_change, links, moving_window, passwords, signup, throttling, verification
from accounts.models import EmailChange, User
from accounts.sessions import Session
from accounts.throttling import Purpose
from mailer.models import Message, State
from tests.accounts.steps import ANN, NEW_PASSWORD, PASSWORD, deliver_all, is_in, log_in, member, sign_up
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


def staff(*permissions: str, email: str = "staff@example.com") -> Client:
    user = member(email)
    user.is_staff = True
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    browser = Client()
    browser.force_login(user)
    return browser


def test_saving_the_profile_does_not_revert_a_concurrent_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    user, browser = member(), log_in()
    user.refresh_from_db()
    token = links.reset_tokens.make_token(user)

    def reset_meanwhile(form: object) -> dict[str, str]:
        assert passwords.reset(user.pk, token, NEW_PASSWORD)
        return {}

    monkeypatch.setattr("accounts.forms.ProfileForm.clean", reset_meanwhile)
    browser.post(reverse("profile"), {"name": "Ann", "language": "en", "time_zone": ""})

    assert User.objects.get().check_password(NEW_PASSWORD)


def test_the_admin_form_saves_only_changed_fields() -> None:
    user = member()
    admin = Client()
    admin.force_login(User.objects.create_superuser("root@example.com", "x"))
    page = reverse("admin:accounts_user_change", args=[user.pk])
    form = admin.get(page).context["adminform"].form.initial
    data = {name: value for name, value in form.items() if value not in (None, False) and name != "password"}
    data |= {"name": "Anna", "groups": [], "user_permissions": []}

    assert admin.post(page, data).status_code == 302

    user.refresh_from_db()
    assert (user.name, user.email, user.check_password(PASSWORD)) == ("Anna", ANN, True)


def test_a_session_key_cannot_be_guessed_through_the_admins_filters() -> None:
    browser = staff("view_session")
    key = Session.objects.get().session_key

    answer = browser.get(reverse("admin:accounts_session_changelist"), {"session_key__startswith": key[0]})

    assert answer.status_code in (302, 400)


def test_staff_cannot_change_other_staff() -> None:
    browser = staff("view_user", "change_user", "delete_user")
    colleague = member("colleague@example.com")
    colleague.is_staff = True
    colleague.save()

    for page in ("change", "delete"):
        assert (
            browser.post(reverse(f"admin:accounts_user_{page}", args=[colleague.pk]), {"post": "yes"}).status_code
            == 403
        )
    assert browser.post(reverse("admin:auth_user_password_change", args=[colleague.pk])).status_code == 403
    assert browser.get(reverse("admin:accounts_user_change", args=[member().pk])).status_code == 200


def test_an_administrator_deletes_a_user_with_links_and_sessions() -> None:
    user = member()
    log_in()
    email_change.request(user, "new@example.com")
    admin = Client()
    admin.force_login(User.objects.create_superuser("root@example.com", "x"))

    answer = admin.post(reverse("admin:accounts_user_delete", args=[user.pk]), {"post": "yes"})

    assert answer.status_code == 302
    assert not User.objects.filter(pk=user.pk).exists()


def test_the_admins_password_page_redirects_to_the_sites() -> None:
    assert staff().get("/admin/password_change/").headers["Location"] == reverse("password_change")


def test_requests_for_other_mail_do_not_block_a_reset() -> None:
    for _ in range(5):
        moving_window.hit(throttling._for(throttling.MAIL_OF_ALL_KINDS, "mail", ANN))

    assert not throttling.may_mail(Purpose.VERIFY, ANN, about="a", request="a")
    assert throttling.may_mail(Purpose.RESET, ANN, about="b", request="b")
    assert throttling.may_mail(Purpose.SIGN_UP, ANN, about="c", request="c")


def test_withdrawing_an_account_cancels_no_mail_of_others() -> None:
    owner = member("old@example.com")
    email_change.request(owner, "free@example.com")
    stranger = Client()
    sign_up(stranger, "free@example.com")

    stranger.post(reverse("correct_address"), {"email": "elsewhere@example.com"})

    waiting = Message.objects.get(kind="accounts.ConfirmNewAddress")
    assert (waiting.recipient, waiting.state) == ("free@example.com", State.QUEUED)


def test_an_unverified_account_does_not_block_an_address() -> None:
    owner = member()
    email_change.request(owner, "wanted@example.com")
    signup.sign_up("wanted@example.com", "a squatter's 1", language="en")
    change = EmailChange.objects.get()

    code = links.code(links.CONFIRM_CHANGE, change)
    assert email_change.confirm(change.pk, code, password=None).state is links.LinkState.DONE

    assert User.objects.get().email == "wanted@example.com"


def test_a_mail_to_an_unproven_address_contains_no_text_of_the_user(smtp: Sink) -> None:
    owner = member()
    User.objects.update(name="You won some money")
    email_change.request(owner, "stranger@example.com")
    deliver_all()

    received = next(r for r in smtp.received if r.recipients == ["stranger@example.com"])
    assert "won some" not in received.source.decode()


def test_too_long_passwords_are_refused_at_sign_up_and_log_in() -> None:
    browser = Client()
    answer = sign_up(browser, ANN, "x1" * 2100)
    assert "4096" in answer.content.decode()
    assert User.objects.count() == 0

    member()
    assert not is_in(log_in(password="x1" * 50_000))


def test_a_deleted_account_stays_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    user, browser = member(), log_in()

    def delete_meanwhile(form: object) -> dict[str, str]:
        assert deletion.delete(user)
        return {}

    monkeypatch.setattr("accounts.forms.ProfileForm.clean", delete_meanwhile)
    browser.post(reverse("profile"), {"name": "Ann", "language": "en", "time_zone": ""})

    assert User.objects.count() == 0


def test_a_link_cannot_delete_a_verified_account() -> None:
    user = member()
    link = verification.begin(user)

    assert not verification.disown(link.pk, links.code(links.VERIFY, link))
    assert User.objects.filter(email_verified_at__lte=timezone.now()).exists()


def test_signing_up_with_an_address_cancels_no_mail_of_others(smtp: Sink) -> None:
    send_mail("Your invoice", "Attached.", None, [ANN, "books@shop.example"], using="default")
    browser = Client()
    sign_up(browser, ANN)
    browser.post(reverse("correct_address"), {"email": "mallory@example.com"})

    assert Message.objects.get(kind="mailer.DjangoMail").state == State.QUEUED


def test_no_name_prevents_the_notice_of_a_changed_address(smtp: Sink) -> None:
    member()
    thief = log_in()
    thief.post(reverse("profile"), {"name": "=?utf-8?q?=0A?=", "language": "en", "time_zone": ""})
    email_change.request(User.objects.get(), "thief@example.org")
    deliver_all()

    change = EmailChange.objects.get()
    assert {(m.kind, m.recipient): m.state for m in Message.objects.filter(kind__contains="Address")} == {
        ("accounts.ConfirmNewAddress", change.new_address): State.SENT,
        ("accounts.AddressChangeRequested", ANN): State.SENT,
    }


@pytest.mark.parametrize("action", ["add", "change", "delete"])
def test_only_a_superuser_gives_permissions_through_a_group(action: str) -> None:
    group = Group.objects.create(name="support")
    browser = staff("view_group", "add_group", "change_group", "delete_group")
    page = reverse(f"admin:auth_group_{action}", args=[] if action == "add" else [group.pk])
    every = list(Permission.objects.values_list("pk", flat=True))

    answer = browser.post(page, {"name": "support", "permissions": every, "post": "yes"})

    assert answer.status_code == 403
    assert not Permission.objects.filter(group__isnull=False).exists()
    assert Group.objects.count() == 1


@pytest.mark.parametrize("page", ["login", "admin:login"])
def test_staff_with_an_unverified_address_log_in_nowhere(page: str) -> None:
    user = member()
    User.objects.filter(pk=user.pk).update(is_staff=True, email_verified_at=None)
    browser = Client()

    browser.post(reverse(page), {"username": ANN, "password": PASSWORD})

    assert not is_in(browser)
