"""Guessed passwords are refused, and the owner of the account is not locked out by those who guess."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import Settings

from accounts.models import User
from tests.accounts.steps import (
    ANN,
    NEW_PASSWORD,
    PASSWORD,
    choose,
    deliver_all,
    is_in,
    link_to,
    link_to_reset,
    member,
    sign_up,
    text_of,
)

pytestmark = pytest.mark.django_db

NEW_HOME = "198.51.100.200"


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel("2026-11-22 12:00Z", tick=False) as clock:
        yield clock


def log_in(client: Client, email: str = ANN, password: str = PASSWORD, peer: str = "192.0.2.1") -> Client:
    client.post(reverse("login"), {"username": email, "password": password}, REMOTE_ADDR=peer)
    return client


def guess(peers: list[str], email: str = ANN) -> None:
    for peer in peers:
        log_in(Client(), email, "wrong", peer)


FLEETS: dict[str, list[str]] = {
    "one IPv4 address": ["192.0.2.9"] * 20,
    "many IPv4 addresses": [f"203.0.113.{n}" for n in range(25)],
    "twenty /64 of one /48": [f"2001:db8:7:{n:x}00::1" for n in range(20)],
    "twenty /48": [f"2001:db8:{n:x}::1" for n in range(1, 21)],
}


@pytest.mark.parametrize("fleet", FLEETS)
def test_guesses_on_one_account_from_many_networks_end(fleet: str, clock: Any) -> None:
    member()
    guess(FLEETS[fleet])

    assert not is_in(log_in(Client(), peer=FLEETS[fleet][-1]))
    clock.shift(15 * 60 + 1)
    assert is_in(log_in(Client(), peer=FLEETS[fleet][-1]))


def test_the_pause_grows_with_the_guesses(clock: Any) -> None:
    member()
    pauses = []
    for _ in range(3):
        guess([f"203.0.113.{n}" for n in range(45)])
        began = time.time()
        while not is_in(log_in(Client(), peer=NEW_HOME)):
            clock.shift(300)
        pauses.append(time.time() - began)

    assert 900 <= pauses[0] < pauses[1] < pauses[2] < 86_400 * 1.1


@pytest.mark.parametrize(
    "peers", [["192.0.2.9"] * 25, [f"2001:db8:7:8:{n}::1" for n in range(25)]], ids=["IPv4", "IPv6 /64"]
)
def test_one_password_on_many_accounts_from_one_network_ends(peers: list[str]) -> None:
    for n in range(25):
        member(f"person-{n}@example.com", "summer 2026 again" if n == 24 else PASSWORD)

    for n, peer in enumerate(peers):
        browser = log_in(Client(), f"person-{n}@example.com", "summer 2026 again", peer)

    assert not is_in(browser)


def test_a_known_browser_logs_in_while_strangers_guess() -> None:
    member()
    known = log_in(Client())
    known.post(reverse("logout"))
    guess(["192.0.2.1"] * 15 + [f"203.0.113.{n}" for n in range(25)])

    assert not is_in(log_in(Client()))
    assert is_in(log_in(known))


def test_a_log_in_at_the_admin_makes_a_browser_known() -> None:
    User.objects.create_superuser(ANN, PASSWORD)
    known = Client()
    for _ in range(2):
        known.post(reverse("admin:login"), {"username": ANN, "password": PASSWORD}, REMOTE_ADDR="192.0.2.1")
        assert is_in(known)
        known.post(reverse("admin:logout"))
        guess(["192.0.2.1"] * 15)


@pytest.mark.parametrize("typed", [False, True])
def test_a_browser_that_confirmed_a_new_address_is_known_to_it(typed: bool) -> None:
    member()
    browser = log_in(Client())
    browser.post(reverse("email_change"), {"email": "new@example.com", "password": PASSWORD})
    deliver_all()
    if typed:
        browser.post(reverse("logout"))
    browser.post(link_to("new@example.com"), {"password": PASSWORD} if typed else {})
    browser.post(reverse("logout"))
    guess([f"203.0.113.{n}" for n in range(25)], "new@example.com")

    assert is_in(log_in(browser, "new@example.com"))


def test_a_known_browser_cannot_guess_either() -> None:
    member()
    known = log_in(Client())
    known.post(reverse("logout"))
    for _ in range(10):
        log_in(known, password="wrong")

    assert not is_in(log_in(known))
    assert is_in(log_in(Client()))


@pytest.mark.parametrize("email", ["bob@example.com", "Ann+1@example.com"])
def test_a_browser_is_known_to_its_own_account_only(email: str) -> None:
    member()
    member(email.lower())
    mine = log_in(Client(), email)
    mine.post(reverse("logout"))
    guess([f"203.0.113.{n}" for n in range(25)])

    assert not is_in(log_in(mine))


@pytest.mark.parametrize("how", ["reset", "changed"])
def test_a_new_password_ends_what_known_browsers_may(how: str) -> None:
    member()
    thieves = [log_in(Client()) for _ in range(3)]
    owner = log_in(Client())
    if how == "reset":
        choose(owner, link_to_reset())
    else:
        ASKING["password"](owner, PASSWORD)
        owner.post(reverse("logout"))
    guess([f"203.0.113.{n}" for n in range(25)])

    assert not any(is_in(log_in(thief, password=NEW_PASSWORD)) for thief in thieves)
    assert is_in(log_in(owner, password=NEW_PASSWORD))


def test_a_forged_cookie_makes_no_browser_known(settings: Settings) -> None:
    member()
    guess([f"203.0.113.{n}" for n in range(25)])
    forged = Client()
    forged.cookies[settings.DEVICE_COOKIE_NAME] = f"{'a' * 32}:1abcde:{'b' * 43}"

    assert not is_in(log_in(forged))


def test_a_new_password_from_the_mailbox_opens_the_account_at_once() -> None:
    member()
    guess([f"203.0.113.{n}" for n in range(25)])
    browser = Client(REMOTE_ADDR=NEW_HOME)

    choose(browser, link_to_reset())

    assert is_in(log_in(browser, password=NEW_PASSWORD))


def test_a_new_account_can_be_used_although_strangers_guessed_its_address() -> None:
    guess([f"203.0.113.{n}" for n in range(25)])
    browser = Client()
    sign_up(browser)
    deliver_all()
    browser.post(link_to(ANN))

    assert is_in(log_in(browser))


ASKING: dict[str, Callable[[Client, str], Any]] = {
    "delete": lambda client, password: client.post(reverse("delete_account"), {"password": password}),
    "address": lambda client, password: client.post(
        reverse("email_change"), {"email": "new@example.com", "password": password}
    ),
    "password": lambda client, password: client.post(
        reverse("password_change"),
        {"old_password": password, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD},
    ),
}


@pytest.mark.parametrize("thief", ASKING)
@pytest.mark.parametrize("owner", ASKING)
def test_wrong_passwords_in_a_stolen_session_do_not_lock_out_the_owner(thief: str, owner: str) -> None:
    member()
    stolen, own = log_in(Client()), log_in(Client())
    for _ in range(15):
        ASKING[thief](stolen, "wrong")
    before = text_of(ASKING[thief](stolen, PASSWORD))  # the thief is refused
    assert User.objects.get().check_password(PASSWORD)
    assert "not your password" in before or "incorrect" in before

    own.post(reverse("logout"))
    assert is_in(log_in(own))
    answer = ASKING[owner](own, PASSWORD)

    assert answer.status_code == 302 or "new@example.com" in answer.content.decode()


@pytest.mark.parametrize("page", ASKING)
def test_a_stolen_session_gets_no_more_guesses_by_a_new_key(page: str) -> None:
    member()
    stolen = log_in(Client())
    for _ in range(10):
        ASKING[page](stolen, "wrong")
    former = stolen.session.session_key
    sign_up(stolen, "other@example.com")
    assert stolen.session.session_key != former

    refused = text_of(ASKING[page](stolen, PASSWORD))

    assert "not your password" in refused or "incorrect" in refused
    assert User.objects.get(email=ANN).check_password(PASSWORD)


def seen(browser: Client, page: str, data: dict[str, str]) -> tuple[int, str, list[str], int, list[str]]:
    """Return what a client sees of an answer, and the verb and table of each statement."""
    with CaptureQueriesContext(connection) as captured:
        answer = browser.post(reverse(page), data)
    verbs = [" ".join(query["sql"].split()[:3]) for query in captured]
    return answer.status_code, answer.get("Location", ""), sorted(answer.cookies), len(verbs), verbs


@pytest.mark.parametrize("with_resend", [False, True])
@pytest.mark.parametrize("same_browser", [False, True])
def test_a_sign_up_and_a_log_in_do_not_tell_known_addresses(with_resend: bool, same_browser: bool) -> None:
    """Together they would, if the right password of an unverified account were answered otherwise than a wrong one."""
    member("known@example.com", "the owner's own 5")
    answers = []
    for address in ("known@example.com", "other@example.com"):
        browser = Client()
        if with_resend:
            browser.post(reverse("resend"), {"email": address})
        sign_up(browser, address)
        page = (browser if same_browser else Client()).post(
            reverse("login"), {"username": address, "password": PASSWORD}
        )
        answers.append((page.status_code, sorted(page.cookies), text_of(page).replace(address, "…")))
        deliver_all()

    assert answers[0] == answers[1]
    assert (
        "Open the link in the e-mail" in answers[0][2]
    ) == same_browser  # the browser itself knows what it signed up with


def test_a_sign_up_and_a_correction_do_not_tell_known_addresses() -> None:
    member("known@example.com")
    member("bob@example.com")
    sign_up(Client(), "unverified@example.com")
    answers = []
    for n, first in enumerate(("known@example.com", "unverified@example.com", "other@example.com")):
        for then in (f"fresh-{n}@example.com", "bob@example.com"):
            browser = Client()
            sign_up(browser, first)
            answers.append(seen(browser, "correct_address", {"email": then}))

    assert [answer[:4] for answer in answers] == [answers[0][:4]] * 6, [answer[4] for answer in answers]


def test_a_session_that_was_planted_before_a_sign_up_gets_nothing_of_it() -> None:
    victim, attacker = Client(), Client()
    attacker.post(reverse("resend"), {"email": "evil@example.com"})
    victim.cookies.load(attacker.cookies.output(header=""))  # the attacker planted their session
    sign_up(victim)

    assert "sign_up" not in attacker.session
    assert "sign_up" in victim.session


def test_the_first_browser_has_no_power_after_a_reset_by_the_owner(clock: Any) -> None:
    attacker = Client()
    sign_up(attacker, password="the 9 attackers words")
    choose(Client(), link_to_reset())
    clock.shift(120)
    User.objects.update(email_verified_at=None)  # an administrator corrected the address
    Client().post(reverse("resend"), {"email": ANN})
    deliver_all()
    for typed in ({}, {"password": "the 9 attackers words"}):
        assert attacker.post(link_to(ANN), typed).context["state"] in ("wrong_password", "superseded")
    assert not is_in(log_in(attacker, password="the 9 attackers words"))


def with_the_session_of(browser: Client) -> Client:
    thief = Client()
    thief.cookies[settings.SESSION_COOKIE_NAME] = browser.cookies[settings.SESSION_COOKIE_NAME].value
    return thief


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_stolen_session_without_the_password_makes_no_browser_known(password: str) -> None:
    member()
    thief = with_the_session_of(log_in(Client()))

    page = thief.post(reverse("admin:login"), {"username": ANN, "password": password})

    assert settings.DEVICE_COOKIE_NAME not in page.cookies


def test_a_stolen_session_with_a_new_key_gets_no_new_guesses() -> None:
    member()
    thief = with_the_session_of(log_in(Client()))

    def change(old: str) -> None:
        new = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
        thief.post(reverse("password_change"), {"old_password": old, **new})

    for guess in range(10):
        change(f"wrong {guess}")
    key = thief.cookies[settings.SESSION_COOKIE_NAME].value
    sign_up(thief, "thief@example.com")
    assert is_in(thief)
    assert thief.cookies[settings.SESSION_COOKIE_NAME].value != key
    change(PASSWORD)

    assert User.objects.get(email=ANN).check_password(PASSWORD)
