"""Reset and change a password."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import deletion, email_change, links, passwords, verification
from accounts.links import LinkState
from accounts.models import EmailChange, EmailVerification, User
from accounts.sessions import Session
from tests.accounts.steps import (
    ANN,
    NEW_PASSWORD,
    PASSWORD,
    choose,
    deliver_all,
    is_in,
    link_to,
    link_to_reset,
    log_in,
    mails_to,
    member,
    sign_up,
    text_of,
)
from tests.at_once import at_once

pytestmark = pytest.mark.django_db


def path_to_reset(user: User) -> str:
    return links.to_reset_password(user).removeprefix("http://localhost:8000")


def code_to_verify(link: EmailVerification) -> str:
    return links.code(links.VERIFY, link)


def test_a_link_changes_the_password_once_and_does_not_log_in(client: Client) -> None:
    member()
    link = link_to_reset()

    answer = choose(client, link)

    assert (answer.status_code, answer["Location"]) == (302, reverse("login"))
    assert "Your password is changed" in client.get(reverse("login")).content.decode()
    assert not is_in(client)
    assert is_in(log_in(password=NEW_PASSWORD))
    assert not is_in(log_in(password=PASSWORD))
    assert choose(Client(), link, "a third 5 horses").status_code == 410
    assert User.objects.get().check_password(NEW_PASSWORD)


def test_a_links_lifetime_begins_when_its_mail_is_built(client: Client) -> None:
    member()
    with time_machine.travel("2026-11-21 12:00Z", tick=False) as clock:
        client.post(reverse("password_reset"), {"email": ANN})
        clock.shift(timedelta(minutes=30))
        deliver_all()
        link = link_to(ANN)
        clock.shift(timedelta(minutes=60))
        assert client.get(link, follow=True).status_code == 200
        clock.shift(timedelta(seconds=1))
        for late in (choose(client, link), choose(Client(), link)):
            assert late.status_code == 410
            assert reverse("password_reset") in late.content.decode()

    assert User.objects.get().check_password(PASSWORD)


@pytest.mark.parametrize("browsers", [1, 20])
@pytest.mark.django_db(transaction=True)
def test_of_twenty_concurrent_resets_one_succeeds(browsers: int) -> None:
    link = path_to_reset(member())
    opened = [Client() for _ in range(browsers)]
    pages = [client.get(link, follow=True).request["PATH_INFO"] for client in opened]

    def send(number: int) -> tuple[int, str]:
        client, password = Client(), f"{NEW_PASSWORD} {number}"
        client.cookies.update(opened[number % browsers].cookies)
        data = {"new_password1": password, "new_password2": password}
        answer = client.post(pages[number % browsers], data)
        assert answer.status_code == 302 or reverse("password_reset") in answer.content.decode()
        return answer.status_code, password

    answers, failures = at_once([partial(send, number) for number in range(20)])

    assert failures == []
    assert Counter(status for status, _ in answers) == {302: 1, 410: 19}
    assert User.objects.get().check_password(next(password for status, password in answers if status == 302))
    assert mails_to(ANN) == [("PasswordChanged", "queued")]


def test_a_reset_ends_earlier_sessions_changes_and_links(client: Client) -> None:
    user = member()
    with time_machine.travel(timezone.now() - timedelta(minutes=5)):
        older = path_to_reset(user)
    attackers = [log_in(), log_in()]
    email_change.request(user, "evil@example.com")
    change, link = EmailChange.objects.get(), verification.begin(user)
    user.refresh_from_db()

    choose(client, path_to_reset(user))

    assert Session.objects.filter(user=user).count() == 0  # the rows are deleted, not only their hashes invalid
    assert not any(map(is_in, attackers))
    code = links.code(links.CONFIRM_CHANGE, change)
    assert email_change.confirm(change.pk, code, password=None).state is LinkState.STOPPED
    assert verification.complete(link.pk, code_to_verify(link), password=NEW_PASSWORD).state is LinkState.SUPERSEDED
    assert choose(Client(), older).status_code == 410
    assert ("PasswordChanged", "queued") in mails_to(ANN)
    deliver_all()
    assert ("PasswordChanged", "sent") in mails_to(ANN)
    assert mails_to("evil@example.com") == [("ConfirmNewAddress", "cancelled")]


def test_a_reset_verifies_the_address(client: Client) -> None:
    User.objects.create_user(ANN, PASSWORD)

    choose(client, link_to_reset())

    user = User.objects.get()
    assert (user.has_verified_email, user.was_verified) == (True, True)
    assert is_in(log_in(password=NEW_PASSWORD))


def test_the_owner_of_an_address_takes_over_an_account_opened_by_others() -> None:
    squatter = Client()
    sign_up(squatter)
    squatted = User.objects.get()
    squatter.force_login(squatted)  # log in although the address is not verified
    squatter.post(reverse("email_change"), {"email": "evil@example.com", "password": PASSWORD})
    deliver_all()
    to_stop, verifying = link_to("evil@example.com"), squatted.email_verifications.get()

    choose(Client(), link_to_reset())

    assert not is_in(squatter)
    assert not is_in(log_in(password=PASSWORD))
    assert squatter.post(to_stop).status_code == 410
    assert squatter.post(reverse("verify", args=[verifying.pk, code_to_verify(verifying)])).status_code == 410
    sign_up(squatter)
    squatter.post(reverse("correct_address"), {"email": "elsewhere@example.com"})
    assert not is_in(log_in(password=PASSWORD))
    assert is_in(log_in(password=NEW_PASSWORD))


@pytest.mark.parametrize("event", ["log-in", "another address", "another password", "deactivation", "deletion"])
def test_a_later_change_of_the_account_ends_a_link(client: Client, event: str) -> None:
    user = member()
    link = path_to_reset(user)
    page = client.get(link, follow=True).request["PATH_INFO"]
    match event:
        case "log-in":
            log_in()
        case "another address":
            User.objects.update(email="new@example.com")
        case "another password":
            passwords.change(user, PASSWORD, session_key=None)
        case "deactivation":
            User.objects.update(is_active=False)
        case "deletion":
            user.delete()

    data = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    assert client.post(page, data).status_code == 410
    assert choose(Client(), link).status_code == 410
    assert not any(user.check_password(NEW_PASSWORD) for user in User.objects.all())


@pytest.mark.parametrize(
    "spoil", ["other user", "other purpose", "upper case", "=3D", ">", "no base 64", "big", "é", ""]
)
def test_an_invalid_link_gets_a_helpful_page(client: Client, spoil: str) -> None:
    user, other = member(), member("bob@example.com")
    uid, token = path_to_reset(user).strip("/").split("/")[-2:]
    uid, token = {
        "other user": (path_to_reset(other).strip("/").split("/")[-2], token),
        "other purpose": (uid, code_to_verify(verification.begin(user))),
        "upper case": (uid, token.upper()),
        "=3D": (uid, f"=3D{token}"),
        ">": (uid, f"{token}>"),
        "no base 64": ("%%", token),
        "big": ("OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", token),
        "é": (uid, f"é-{token}"),
        "": (uid, "set-password"),
    }[spoil]

    for answer in (client.get(path := reverse("password_reset_confirm", args=[uid, token])), client.post(path)):
        assert answer.status_code == 410
        assert reverse("password_reset") in answer.content.decode()


def test_a_bracket_after_a_link_causes_no_error(client: Client) -> None:
    assert client.get(path_to_reset(member()) + ">").status_code == 404


@pytest.mark.parametrize("who", ["unknown", "inactive"])
def test_unknown_addresses_get_no_link_and_the_same_answer(client: Client, who: str) -> None:
    member("bob@example.com")
    if who == "inactive":
        member()
        User.objects.filter(email=ANN).update(is_active=False)

    known = client.post(reverse("password_reset"), {"email": "bob@example.com"}, follow=True)
    unknown = client.post(reverse("password_reset"), {"email": ANN}, follow=True)

    assert text_of(unknown).replace(ANN, "bob@example.com") == text_of(known)
    deliver_all()
    assert mails_to(ANN) == [("ResetPassword", "cancelled")]
    assert mails_to("bob@example.com") == [("ResetPassword", "sent")]


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ("12345678", "12345678", "too common"),
        ("ann@example.com", "ann@example.com", "too similar"),
        (NEW_PASSWORD, "something else 1", "match"),
        ("", "", "required"),
    ],
)
def test_a_weak_password_is_refused_at_its_field_and_the_link_still_works(
    client: Client, first: str, second: str, complaint: str
) -> None:
    link = path_to_reset(member())
    page = client.get(link, follow=True).request["PATH_INFO"]

    answer = client.post(page, {"new_password1": first, "new_password2": second})

    assert answer.status_code == 200
    assert complaint in str(answer.context["form"].errors["new_password2"])
    assert choose(client, link).status_code == 302


def test_pages_of_links_are_not_cached_and_send_no_referrer(client: Client) -> None:
    link = path_to_reset(member())
    page = client.get(link, follow=True)
    spoilt = client.get(link[:-2] + "/")

    assert link not in page.request["PATH_INFO"]
    for answer in (page, spoilt):
        assert answer["Referrer-Policy"] == "strict-origin"
        assert "no-store" in answer["Cache-Control"]
    assert "no-store" in client.get(link)["Cache-Control"]


def test_a_reset_logs_out_the_browser_that_made_it() -> None:
    member()
    browser = log_in()

    answer = choose(browser, link_to_reset())

    assert (answer.status_code, answer["Location"]) == (302, reverse("login"))
    assert not is_in(browser)
    assert is_in(log_in(password=NEW_PASSWORD))


def test_a_browser_logged_in_to_another_account_stays_logged_in() -> None:
    member()
    member("bob@example.com")
    bob = log_in("bob@example.com")

    assert choose(bob, link_to_reset()).status_code == 302
    assert is_in(bob)


def change(client: Client, old: str = PASSWORD, new: str = NEW_PASSWORD):  # type: ignore[no-untyped-def]
    return client.post(reverse("password_change"), {"old_password": old, "new_password1": new, "new_password2": new})


def test_a_change_needs_the_old_password() -> None:
    member()
    browser = log_in()

    wrong = change(browser, old="wrong")

    assert wrong.status_code == 200
    assert "old_password" in wrong.context["form"].errors
    assert User.objects.get().check_password(PASSWORD)
    assert mails_to(ANN) == []
    assert "12345678" not in change(browser, new="12345678").content.decode()


def test_a_change_logs_out_every_other_browser() -> None:
    user = member()
    this, other = log_in(), log_in()
    email_change.request(user, "evil@example.com")

    answer = change(this)

    assert (answer.status_code, answer["Location"]) == (302, reverse("profile"))
    assert (is_in(this), is_in(other)) == (True, False)
    assert Session.objects.filter(user=user).count() == 1
    assert EmailChange.objects.filter(stopped_at=None).count() == 0
    assert mails_to(ANN)[-1] == ("PasswordChanged", "queued")
    assert is_in(log_in(password=NEW_PASSWORD))


def test_a_change_needs_a_log_in(client: Client) -> None:
    for page in ("password_change", "email_change", "delete_account", "profile"):
        for answer in (client.get(path := reverse(page)), client.post(path)):
            assert answer["Location"] == f"{reverse('login')}?next={path}"


def test_a_password_that_was_just_replaced_is_refused() -> None:
    """The owner's reset can come after the form's check and before the lock."""
    attacker = member()
    assert passwords.reset(attacker.pk, links.reset_tokens.make_token(attacker), NEW_PASSWORD)

    assert not passwords.change(attacker, "of the attacker 1", session_key=None)
    assert not email_change.request(attacker, "evil@example.com")
    assert not deletion.delete(attacker)

    assert User.objects.get().check_password(NEW_PASSWORD)
    assert EmailChange.objects.count() == 0
    assert mails_to(ANN) == [("PasswordChanged", "queued")]


@pytest.mark.django_db(transaction=True)
def test_a_reset_wins_over_a_concurrent_change() -> None:
    for round_ in range(5):
        user = member(f"ann{round_}@example.com")
        attacker = log_in(user.email)
        user.refresh_from_db()
        both: list[Callable[[], object]] = [
            partial(passwords.reset, user.pk, links.reset_tokens.make_token(user), NEW_PASSWORD),
            partial(change, attacker, new="of the attacker 1"),
        ]

        results, failures = at_once(both)

        assert failures == []
        owner_won = True in results
        user.refresh_from_db()
        assert user.check_password(NEW_PASSWORD if owner_won else "of the attacker 1")
        assert is_in(attacker) is not owner_won
