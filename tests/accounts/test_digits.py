"""The six digits beside a link: typed on the page that the sign-up left open, they verify the address as well."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts import links, throttling, verification
from accounts.models import EmailVerification, User
from mailer.models import DeliveryAttempt, Message
from tests.accounts.steps import ANN, DIGITS, deliver_all, is_in, link_to, log_in, member, sign_up, text_of
from tests.at_once import at_once

pytestmark = pytest.mark.django_db

TRIES = throttling.TRIES_OF_DIGITS[0].amount


def type_digits(client: Client, digits: str) -> Any:
    return client.post(reverse("check_inbox"), {"digits": digits})


def mailed(to: str = ANN) -> str:
    """Return the digits in the newest mail to an address."""
    deliver_all()
    body = next(str(sent.body) for sent in reversed(mail.outbox) if to in sent.to[0])
    [digits] = DIGITS.findall(body)
    return str(digits)


def wrong(digits: str) -> str:
    return f"{(int(digits) + 1) % 1_000_000:06}"


def is_verified() -> bool:
    return User.objects.get(email=ANN).has_verified_email


def test_the_digits_verify_in_the_browser_that_signed_up_and_once(client: Client) -> None:
    sign_up(client)
    digits = mailed()
    assert f"Your code is {digits}." in str(mail.outbox[-1].message())

    assert "is verified" in type_digits(client, digits).content.decode()
    assert is_in(log_in())
    assert type_digits(client, digits)["Location"] == reverse("login")
    assert client.post(link_to(ANN)).context["state"] == "used"


@pytest.mark.parametrize("typed", ["{0} {1}", "{0}-{1}", " {0}{1} "])
def test_digits_may_be_typed_with_signs_between_them(client: Client, typed: str) -> None:
    sign_up(client)
    digits = mailed()

    type_digits(client, typed.format(digits[:3], digits[3:]))

    assert is_verified()


def test_digits_of_another_script_are_digits(client: Client) -> None:
    sign_up(client)

    type_digits(client, mailed().translate(str.maketrans("0123456789", "๐๑๒๓๔๕๖๗๘๙")))

    assert is_verified()


def test_no_other_browser_can_use_them(client: Client) -> None:
    sign_up(client)
    digits = mailed()
    other = Client()
    sign_up(other, "other@example.com")

    assert type_digits(Client(), digits)["Location"] == reverse("login")
    assert "This is not the code" in type_digits(other, digits).content.decode()
    assert not is_verified()


def test_a_second_sign_up_with_the_address_ends_them(client: Client) -> None:
    attacker = Client()
    sign_up(attacker, password="the attackers words 9")
    digits = mailed()

    sign_up(client)

    assert "This is not the code" in type_digits(attacker, digits).content.decode()
    assert "This is not the code" in type_digits(client, digits).content.decode()
    with time_machine.travel(timezone.now() + timedelta(minutes=2)):
        Client().post(reverse("resend"), {"email": ANN})
        deliver_all()
    assert DIGITS.findall(str(mail.outbox[-1].body)) == []
    assert not is_verified()


@pytest.mark.parametrize(
    "change",
    [
        verification.share,  # another browser signs up with the address
        verification.supersede,
        lambda user: User.objects.filter(pk=user.pk).update(email="other@example.com"),
        lambda user: User.objects.filter(pk=user.pk).update(password="!"),
    ],
)
def test_what_changes_while_they_are_read_ends_them(
    client: Client, monkeypatch: pytest.MonkeyPatch, change: Callable[[User], object]
) -> None:
    sign_up(client)
    digits, user = mailed(), User.objects.get()

    def compare_slowly(*of: Any) -> bool:
        change(user)
        return are_digits_of(*of)

    are_digits_of = links.are_digits_of
    monkeypatch.setattr(links, "are_digits_of", compare_slowly)

    assert "This is not the code" in type_digits(client, digits).content.decode()
    assert not User.objects.get().has_verified_email


def test_they_end_with_the_link(client: Client) -> None:
    sign_up(client)
    digits = mailed()

    with time_machine.travel(timezone.now() + timedelta(hours=25)):
        assert "This is not the code" in type_digits(client, digits).content.decode()

    assert not is_verified()


def test_a_session_that_was_planted_in_the_browser_does_not_get_the_sign_up(client: Client) -> None:
    attacker = Client()
    sign_up(attacker, "attacker@example.com")
    client.cookies["sessionid"] = attacker.cookies["sessionid"].value

    sign_up(client)
    type_digits(attacker, mailed())

    assert not is_verified()


def test_a_repeated_mail_has_them_too(client: Client) -> None:
    sign_up(client)
    digits = mailed()

    with time_machine.travel(timezone.now() + timedelta(minutes=2)):
        page = client.post(reverse("resend"), {"email": ANN}, follow=True)
        assert mailed() == digits

    assert 'autocomplete="one-time-code"' in page.content.decode()


def test_five_tries_and_no_more(client: Client) -> None:
    sign_up(client)
    digits = mailed()

    answers = [type_digits(client, wrong(digits)) for _ in range(TRIES)] + [type_digits(client, digits)]

    assert [answer.status_code for answer in answers] == [*[200] * TRIES, 429]
    assert "Too many codes were tried" in answers[-1].content.decode()
    assert not is_verified()
    assert client.post(link_to(ANN)).context["state"] == "done"


@pytest.mark.django_db(transaction=True)
def test_parallel_tries_are_five_at_most() -> None:
    allowed, failed = at_once([lambda: throttling.may_try_digits("a sign-up", "192.0.2.1/32")] * (2 * TRIES))

    assert (Counter(allowed), failed) == ({True: TRIES, False: TRIES}, [])


def test_what_cannot_be_a_code_costs_no_try(client: Client) -> None:
    sign_up(client)
    digits = mailed()
    for typed in ("", "12345", "1234567", "x" * 21, "six digits", "½½½½½½"):
        answer = type_digits(client, typed)
        assert (answer.status_code, list(answer.context["form"].errors)) == (200, ["digits"])
        assert "<title>Error:" in answer.content.decode()

    type_digits(client, digits)

    assert is_verified()


@pytest.mark.parametrize("is_known", [True, False])
def test_a_network_may_not_try_for_many_sign_ups(is_known: bool) -> None:
    if is_known:
        member()
    statuses = []
    for _ in range(6):
        browser = Client()
        sign_up(browser)
        statuses += [type_digits(browser, "000000").status_code for _ in range(4)]

    assert statuses == [*[200] * 20, *[429] * 4]


def test_a_known_address_is_answered_like_an_unknown_one() -> None:
    member()
    known, unknown = Client(), Client()
    sign_up(known)
    sign_up(unknown, "bob@example.com")
    deliver_all()

    for _ in range(TRIES + 1):
        answers = [type_digits(browser, "000000") for browser in (known, unknown)]
        pages = [text_of(answer).replace("bob@example.com", ANN) for answer in answers]
        assert pages[0] == pages[1]
        assert answers[0].status_code == answers[1].status_code
    assert [DIGITS.findall(str(sent.body)) for sent in mail.outbox if ANN in sent.to[0]] == [[]]


def test_they_stand_in_no_column_of_a_message(client: Client) -> None:
    sign_up(client)
    digits = mailed()

    columns = ("subject", "reason", "arguments", "key", "payload")
    assert digits not in str([*Message.objects.values(*columns), *DeliveryAttempt.objects.values("response")])


def test_they_are_accepted_under_a_former_key(client: Client, settings: Settings) -> None:
    sign_up(client)
    link, former = EmailVerification.objects.get(), mailed()

    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another key" * 10

    assert links.are_digits_of(link, former)
    assert links.are_digits_of(link, links.digits(link))
    assert not links.are_digits_of(link, wrong(former))
