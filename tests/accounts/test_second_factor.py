"""The second factor of staff, tried by its owner and by a thief who knows the password."""

import re
from base64 import b32decode
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import time_machine
from django.contrib import admin
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_otp.oath import TOTP
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice
from pytest_django import Settings

from accounts import second_factor
from accounts.models import User
from accounts.sessions import Session, hash_key
from tests.accounts.steps import (
    ANN,
    NEW_PASSWORD,
    PASSWORD,
    choose,
    deliver_all,
    is_in,
    link_to_reset,
    log_in,
    mails_to,
    member,
    text_of,
)
from tests.at_once import at_once

pytestmark = pytest.mark.django_db

KEY = "3132333435363738393031323334353637383930"
ADMIN_PAGES = [
    reverse("admin:index"),
    reverse("admin:accounts_user_changelist"),
    reverse("admin:accounts_user_add"),
    reverse("admin:mailer_message_changelist"),
    reverse("admin:app_list", args=["mailer"]),
    reverse("admin:jsi18n"),
    reverse("admin:autocomplete"),
]
PAGES_OF_DEVICES = ["second_factor", "second_factor_app", "second_factor_codes"]


@pytest.fixture(autouse=True)
def production(settings: Settings) -> None:
    settings.STAFF_SECOND_FACTOR = True


@pytest.fixture
def ann(db: None) -> User:
    user = member()
    User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=True)
    return User.objects.get()


@pytest.fixture
def app(ann: User) -> Any:
    return TOTPDevice.objects.create(user=ann, key=KEY, name="app")


def code_of(key: str = KEY, *, steps: int = 0) -> str:
    return f"{TOTP(bytes.fromhex(key), drift=steps).token():06}"


def give(browser: Client, code: str, then: str = "/admin/") -> Any:
    return browser.post(reverse("second_factor_ask"), {"code": code, "next": then})


def verified() -> Client:
    browser = log_in()
    assert give(browser, code_of()).url == "/admin/"
    return browser


def sees_the_admin(browser: Client) -> bool:
    return browser.get("/admin/").status_code == 200


def enrol(browser: Client, password: str = PASSWORD) -> Any:
    """Add an app as a person does: password, picture, code."""
    page = browser.get(reverse("second_factor_app"), follow=True)
    page = browser.post(page.request["PATH_INFO"], {"password": password, "next": reverse("second_factor_app")})
    key = secret_on(browser.get(reverse("second_factor_app")))
    return browser.post(reverse("second_factor_app"), {"code": code_of(key), "next": "/admin/"})


def secret_on(page: Any) -> str:
    found = re.search(r'<code class="secret">([A-Z2-7 ]+)</code>', page.content.decode())
    assert found, page.content.decode()
    return b32decode(found[1].replace(" ", "")).hex()


# --- What the admin shows ---


@pytest.mark.parametrize("page", ADMIN_PAGES)
@pytest.mark.parametrize("is_enrolled", [False, True])
def test_the_password_alone_opens_no_page_of_the_admin(page: str, is_enrolled: bool, ann: User) -> None:
    if is_enrolled:
        TOTPDevice.objects.create(user=ann, key=KEY, name="app")
    thief = log_in()

    for answer in (thief.get(page), thief.post(page, {"email": "x@example.com", "action": "delete_selected"})):
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/admin/login/")
    led = thief.get(page, follow=True)
    assert led.redirect_chain[-1][0].startswith(
        reverse("second_factor_ask" if is_enrolled else "second_factor_password")
    )


def test_with_the_second_factor_the_admin_opens(ann: User, app: Any) -> None:
    browser = log_in()
    led = browser.get("/admin/accounts/user/?is_staff__exact=1", follow=True)
    then = re.search(r'name="next" value="([^"]+)"', led.content.decode())
    assert then
    assert give(browser, code_of(), then[1]).url == "/admin/accounts/user/?is_staff__exact=1"

    pages = [page for page in ADMIN_PAGES if "autocomplete" not in page]
    assert {browser.get(page).status_code for page in pages} == {200}


def test_the_log_in_page_of_the_admin_asks_for_it_too(ann: User, app: Any) -> None:
    browser = Client()
    page = browser.post("/admin/login/?next=/admin/", {"username": ANN, "password": PASSWORD}, follow=True)

    assert page.request["PATH_INFO"] == reverse("second_factor_ask")
    assert not sees_the_admin(browser)
    give(browser, code_of())
    assert sees_the_admin(browser)


def test_the_button_of_the_admin_logs_out_without_it(ann: User, app: Any) -> None:
    browser = log_in()
    browser.post(reverse("admin:logout"))
    assert not is_in(browser)


def test_the_sites_own_pages_need_no_second_factor(ann: User, app: Any) -> None:
    assert is_in(log_in())


def test_users_who_are_no_staff_are_never_asked() -> None:
    member()
    browser = log_in()

    assert is_in(browser)
    assert "second-factor" not in text_of(browser.get(reverse("profile")))
    assert {browser.get(reverse(name)).status_code for name in [*PAGES_OF_DEVICES, "second_factor_ask"]} == {404}


def test_without_the_setting_staff_are_asked_only_once_they_have_a_device(ann: User, settings: Settings) -> None:
    settings.STAFF_SECOND_FACTOR = False
    browser = log_in()
    assert sees_the_admin(browser)

    TOTPDevice.objects.create(user=ann, key=KEY, name="app")
    assert not sees_the_admin(browser)
    give(browser, code_of())
    assert sees_the_admin(browser)


def test_the_devices_have_no_page_in_the_admin() -> None:
    labels = {model._meta.app_label for model in admin.site._registry}
    assert not labels & {"otp_totp", "otp_static", "otp_webauthn", "django_otp_webauthn"}


# --- Adding the first device ---


def test_the_first_app_is_added_with_password_and_code_and_brings_recovery_codes(ann: User) -> None:
    browser = log_in()
    page = enrol(browser)

    codes = re.findall(r"<li><code>([a-z2-7-]{19})</code>", page.content.decode())
    assert len(set(codes)) == 10
    assert "no-store" in page.headers["Cache-Control"]
    assert sees_the_admin(browser)
    assert codes[0] not in text_of(browser.get(reverse("second_factor_codes")))
    deliver_all()
    assert [kind for kind, _ in mails_to(ANN)].count("SecondFactorChanged") == 2

    elsewhere = log_in()
    assert not sees_the_admin(elsewhere)
    assert give(elsewhere, codes[3].upper().replace("-", " ")).status_code == 302
    assert sees_the_admin(elsewhere)
    assert give(log_in(), codes[3]).status_code == 200


def test_the_picture_needs_no_exception_from_the_content_policy(ann: User) -> None:
    browser = log_in()
    browser.post(reverse("second_factor_password"), {"password": PASSWORD})
    page = browser.get(reverse("second_factor_app")).content.decode()

    assert "<svg" in page
    assert not re.search(r"<svg[^>]*(style|on\w+|href)=", page)


def test_a_stolen_session_adds_no_device(ann: User) -> None:
    """The owner is logged in and not enrolled. The thief has the cookie but not the password."""
    thief = log_in()
    page = thief.get(reverse("second_factor_app"), follow=True)
    assert page.request["PATH_INFO"] == reverse("second_factor_password")
    assert thief.post(reverse("second_factor_password"), {"password": "a guess 1"}).status_code == 200

    key = "00" * 20
    answer = thief.post(reverse("second_factor_app"), {"code": code_of(key)})
    assert answer.headers["Location"].startswith(reverse("second_factor_password"))
    assert not TOTPDevice.objects.exists()


def test_a_copy_of_the_cookie_from_before_the_password_or_the_code_is_dead(ann: User) -> None:
    browser, thief = log_in(), Client()
    thief.cookies["sessionid"] = browser.cookies["sessionid"].value
    assert is_in(thief)
    enrol(browser)

    assert sees_the_admin(browser)
    assert not is_in(thief)
    assert Session.objects.filter(session_key=hash_key(browser.session.session_key), user=ann).exists()


def test_a_typed_password_is_old_after_ten_minutes(ann: User) -> None:
    browser = log_in()
    browser.post(reverse("second_factor_password"), {"password": PASSWORD})
    assert browser.get(reverse("second_factor_app")).status_code == 200
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        assert (
            browser.get(reverse("second_factor_app")).headers["Location"].startswith(reverse("second_factor_password"))
        )


def test_the_key_shown_to_one_session_is_not_that_of_another(ann: User) -> None:
    keys = set()
    for browser in (log_in(), log_in()):
        browser.post(reverse("second_factor_password"), {"password": PASSWORD})
        keys.add(secret_on(browser.get(reverse("second_factor_app"))))
    assert len(keys) == 2


def test_a_session_prepared_before_the_owner_enrolled_adds_no_second_device(ann: User) -> None:
    thief = log_in()
    thief.post(reverse("second_factor_password"), {"password": PASSWORD})
    key = secret_on(thief.get(reverse("second_factor_app")))
    enrol(log_in())

    thief.post(reverse("second_factor_app"), {"code": code_of(key)})
    assert TOTPDevice.objects.count() == 1
    assert not sees_the_admin(thief)


@pytest.mark.parametrize("name", PAGES_OF_DEVICES)
def test_the_pages_of_devices_are_closed_until_the_session_is_verified(name: str, ann: User, app: Any) -> None:
    thief = log_in()
    thief.post(reverse("second_factor_password"), {"password": PASSWORD})
    assert thief.get(reverse(name)).headers["Location"].startswith(reverse("second_factor_ask"))
    for post in (name, "second_factor_remove"):
        answer = thief.post(reverse(post), {"device": app.persistent_id, "code": code_of()})
        assert answer.status_code == 405 or answer.headers["Location"].startswith(reverse("second_factor_ask"))
    assert TOTPDevice.objects.count() == 1
    assert not StaticToken.objects.exists()


# --- Codes ---


def test_a_code_works_once(ann: User, app: Any) -> None:
    code = code_of()
    assert give(log_in(), code).status_code == 302
    again = log_in()
    assert give(again, code).status_code == 200
    assert not sees_the_admin(again)


def test_the_code_that_added_the_app_does_not_work_again(ann: User) -> None:
    enrol(log_in())
    key = TOTPDevice.objects.get().key
    thief = log_in()
    assert give(thief, code_of(key)).status_code == 200


@pytest.mark.parametrize("code", ["", " ", "0", "-1", "١٢٣٤٥٦", "9" * 40, "9" * 41, "a\0b", "1e5", "½", "0x12"])
def test_a_strange_code_is_refused(code: str, ann: User, app: Any) -> None:
    assert give(log_in(), code).status_code == 200


def test_wrong_codes_slow_the_thief_down_but_never_lock_the_owner_out(ann: User, app: Any) -> None:
    (code, *_) = second_factor.new_recovery_codes(ann)
    thief, now = log_in(), timezone.now()
    with time_machine.travel(now, tick=False) as clock:
        for _ in range(200):
            give(thief, "000000")
            clock.shift(timedelta(seconds=60))
        app.refresh_from_db()
        assert 8 <= app.throttling_failure_count <= second_factor.LONGEST_WAIT
        assert give(thief, code_of()).status_code == 200  # even the right one, while it waits

        assert give(log_in(), code).status_code == 302  # a recovery code works meanwhile
        clock.shift(timedelta(minutes=18))
        assert give(log_in(), code_of()).status_code == 302  # and after the longest wait the app as well
    deliver_all()
    kinds = [kind for kind, _ in mails_to(ANN)]
    assert kinds.count("SecondFactorChanged") == 3  # new codes, one notice of all the guesses, a used recovery code


def test_two_apps_do_not_disturb_each_other(ann: User, app: Any) -> None:
    other = TOTPDevice.objects.create(user=ann, key=KEY[::-1], name="app")
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(4):
            for each in (app, other):
                assert give(log_in(), code_of(each.key)).status_code == 302
            clock.shift(timedelta(seconds=30))


def test_wrong_recovery_codes_lock_nothing(ann: User, app: Any) -> None:
    (code, *_) = second_factor.new_recovery_codes(ann)
    thief = log_in()
    for _ in range(20):
        give(thief, "aaaa-aaaa-aaaa-aaaa")
    assert give(log_in(), code).status_code == 302


def test_the_table_holds_no_recovery_code(ann: User, app: Any) -> None:
    codes = {code.replace("-", "") for code in second_factor.new_recovery_codes(ann)}
    assert not codes & set(StaticToken.objects.values_list("token", flat=True))
    assert give(log_in(), StaticToken.objects.values_list("token", flat=True)[0]).status_code == 200


def test_new_recovery_codes_replace_the_former_ones(ann: User, app: Any) -> None:
    (former, *_) = second_factor.new_recovery_codes(ann)
    browser = verified()
    page = browser.post(reverse("second_factor_codes"))
    assert len(re.findall(r"<li><code>", page.content.decode())) == 10
    assert give(log_in(), former).status_code == 200


@pytest.mark.parametrize("then", ["word", "signup", "a b", "@"])
def test_a_word_is_no_page_to_go_to_and_costs_no_code(then: str, ann: User, app: Any) -> None:
    browser = log_in()
    assert give(browser, code_of(), then).url == reverse("second_factor")
    assert sees_the_admin(browser)


def test_afterwards_a_page_of_another_site_is_not_opened(ann: User, app: Any) -> None:
    for target in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        app.last_t = -1
        app.save()
        assert give(log_in(), code_of(), target).url == reverse("second_factor")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_of_many_browsers_with_one_code_one_gets_in(kind: str, ann: User, app: Any) -> None:
    code = code_of() if kind == "app" else second_factor.new_recovery_codes(ann)[0]
    browsers = [log_in() for _ in range(6)]
    answers, failures = at_once([partial(give, browser, code) for browser in browsers])

    assert failures == []
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [302]
    assert sum(map(sees_the_admin, browsers)) == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_sessions_that_add_the_first_device_at_once_one_does(ann: User) -> None:
    browsers, forms = [log_in(), log_in()], []
    for browser in browsers:
        browser.post(reverse("second_factor_password"), {"password": PASSWORD})
        key = secret_on(browser.get(reverse("second_factor_app")))
        forms.append(partial(browser.post, reverse("second_factor_app"), {"code": code_of(key)}))
    _, failures = at_once(forms)

    assert failures == []
    assert TOTPDevice.objects.count() == 1
    assert sum(map(sees_the_admin, browsers)) == 1


# --- Devices of a verified session ---


def test_the_only_device_stays_and_one_of_two_goes(ann: User, app: Any, settings: Settings) -> None:
    browser = verified()
    assert "second_factor_remove" not in text_of(browser.get(reverse("second_factor")))
    browser.post(reverse("second_factor_remove"), {"device": app.persistent_id})
    assert TOTPDevice.objects.count() == 1

    page = browser.get(reverse("second_factor_app"))
    browser.post(reverse("second_factor_app"), {"code": code_of(secret_on(page))})
    assert TOTPDevice.objects.count() == 2
    browser.post(reverse("second_factor_remove"), {"device": app.persistent_id})
    assert not TOTPDevice.objects.filter(pk=app.pk).exists()
    assert not sees_the_admin(browser)  # that device had verified this session

    settings.STAFF_SECOND_FACTOR = False
    last = TOTPDevice.objects.get()
    second_factor.new_recovery_codes(ann)
    assert second_factor.remove(ann, last.persistent_id)
    assert not StaticDevice.objects.exists()


def test_the_device_of_another_person_cannot_be_removed(ann: User, app: Any) -> None:
    bob = member("bob@example.com")
    theirs = [TOTPDevice.objects.create(user=bob, name="app") for _ in range(2)]
    verified().post(reverse("second_factor_remove"), {"device": theirs[0].persistent_id})
    assert TOTPDevice.objects.filter(user=bob).count() == 2


# --- Other doors ---


def test_a_password_reset_neither_removes_nor_passes_it(ann: User, app: Any) -> None:
    before = verified()
    thief = Client()
    choose(thief, link_to_reset())
    thief = log_in(password=NEW_PASSWORD)

    assert is_in(thief)
    assert not sees_the_admin(thief)
    assert not is_in(before)
    assert TOTPDevice.objects.count() == 1


def test_a_session_from_before_the_enrolment_is_not_verified_by_it(ann: User) -> None:
    before = log_in()
    enrol(log_in())
    assert not sees_the_admin(before)


def test_a_new_log_in_is_not_verified_and_a_log_out_ends_it(ann: User, app: Any) -> None:
    browser = verified()
    assert sees_the_admin(browser)
    browser.post(reverse("logout"))
    browser.post(reverse("login"), {"username": ANN, "password": PASSWORD})
    assert not sees_the_admin(browser)


def test_the_session_of_one_user_is_not_verified_by_the_device_of_another(ann: User, app: Any) -> None:
    bob = member("bob@example.com")
    User.objects.filter(pk=bob.pk).update(is_staff=True)
    browser = log_in("bob@example.com")
    session = browser.session
    session["otp_device_id"] = app.persistent_id
    session.save()
    assert not sees_the_admin(browser)


# --- The command, and the URL for the proxy ---


def test_the_command_removes_everything_and_ends_the_sessions(ann: User, app: Any, capsys: Any) -> None:
    second_factor.new_recovery_codes(ann)
    browser = verified()
    call_command("reset_second_factor", " ann@EXAMPLE.com ")

    assert "2 devices removed" in capsys.readouterr().out
    assert not is_in(browser)
    assert not TOTPDevice.objects.exists()
    assert not StaticToken.objects.exists()
    deliver_all()
    assert mails_to(ANN)[-1] == ("SecondFactorChanged", "sent")


@pytest.mark.parametrize("address", ["nobody@example.com", "not an address", ""])
def test_the_command_says_so_if_there_is_no_such_account(address: str) -> None:
    with pytest.raises(CommandError, match=re.escape(f"No account has the address {address}.")):
        call_command("reset_second_factor", address)


def test_the_url_for_a_proxy_lets_verified_staff_pass_alone(ann: User, settings: Settings, caplog: Any) -> None:
    url = reverse("staff_only")
    member("bob@example.com")
    assert url == "/accounts/staff/"
    assert Client().get(url).status_code == 401
    assert log_in("bob@example.com").get(url).status_code == 401
    browser = log_in()
    assert browser.get(url).status_code == 401

    TOTPDevice.objects.create(user=ann, key=KEY, name="app")
    give(browser, code_of())
    answer = browser.get(url)
    assert (answer.status_code, answer.content) == (204, b"")
    assert "no-store" in answer.headers["Cache-Control"]
    assert (browser.post(url).status_code, browser.head(url).status_code) == (405, 204)

    settings.STAFF_SECOND_FACTOR = False
    assert log_in().get(url).status_code == 401  # the user has a device
    User.objects.filter(pk=ann.pk).update(is_active=False)
    assert browser.get(url).status_code == 401


def test_a_session_whose_device_is_removed_during_a_request_adds_no_device(
    ann: User, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = verified()
    key = secret_on(browser.get(reverse("second_factor_app")))
    verify = TOTP.verify

    def reset_first(*args: Any, **options: Any) -> bool:
        second_factor.reset(ann)
        return bool(verify(*args, **options))

    monkeypatch.setattr(TOTP, "verify", reset_first)
    browser.post(reverse("second_factor_app"), {"code": code_of(key)})

    assert not second_factor.is_enrolled(ann)


def test_a_page_of_the_admin_asks_once_whether_the_user_has_a_device(ann: User, settings: Settings) -> None:
    settings.STAFF_SECOND_FACTOR = False
    browser = log_in()
    with CaptureQueriesContext(connection) as captured:
        assert browser.get(reverse("admin:index")).status_code == 200

    tables = re.findall(r'FROM "(otp_\w+|django_otp_\w+)"', " ".join(query["sql"] for query in captured))
    assert sorted(tables) == sorted(set(tables))
