"""Wrong passwords: an alert to the owner once a day, and a limit on guesses per network."""

import re
from typing import Any, cast

import pytest
import time_machine
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.emails import LogInAlert
from accounts.models import MovingWindow, User
from mailer.models import Message, State
from mailer.testing.outbox import Outbox

PASSWORD = "correct horse 9 battery"
HERE, THERE = "192.0.2.77", "198.51.100.1"


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_user(
        "ann@example.com", PASSWORD, name="Ann", email_verified_at=timezone.now(), was_verified=True
    )


def log_in(
    password: str, *, address: str = "ann@example.com", peer: str = HERE, page: str = "login", **meta: Any
) -> Any:
    return Client(REMOTE_ADDR=peer, **meta).post(reverse(page), {"username": address, "password": password})


def is_in(response: Any) -> bool:
    return bool(response.status_code == 302)


def test_five_wrong_passwords_send_one_alert(owner: User, outbox: Outbox) -> None:
    with time_machine.travel("2026-11-22 12:34:56Z", tick=False) as clock:
        for _ in range(4):
            log_in("wrong")
        assert outbox.messages == []
        for _ in range(10):
            log_in("wrong")
        for _ in range(20):  # the whole day
            clock.shift(3600)
            for _ in range(6):
                log_in("wrong", peer=THERE)
        clock.move_to("2026-11-22 12:35:56Z")
        assert outbox.deliver()[0].state == State.SENT
        clock.move_to("2026-11-23 12:40Z")
        for _ in range(5):
            log_in("wrong")

        outbox.deliver()

    assert len(outbox.of(LogInAlert)) == len(outbox)
    assert len(mail.outbox) == 2


def test_wrong_passwords_far_apart_send_no_alert(owner: User) -> None:
    with time_machine.travel("2026-11-22 12:00Z", tick=False) as clock:
        for _ in range(20):
            log_in("wrong")
            clock.shift(60 * 4)

    assert not Message.objects.exists()


def test_alerts_count_all_networks_together(owner: User) -> None:
    for n in range(5):
        log_in("wrong", peer=f"192.0.2.{n}")

    assert Message.objects.count() == 1


@pytest.mark.parametrize(
    ("peer", "told", "untold"),
    [(HERE, "begins with 192.0.2.", "192.0.2.77"), ("2001:db8:1:2:3::4", "begins with 2001:db8:1.", "2001:db8:1:2")],
)
def test_the_alert_contains_the_time_and_the_beginning_of_the_address_but_nothing_that_was_typed(
    owner: User, outbox: Outbox, peer: str, told: str, untold: str
) -> None:
    typed = {"HTTP_USER_AGENT": "Firefox <b>agent-of-evil</b>", "HTTP_REFERER": "https://evil.example/"}
    with time_machine.travel("2026-11-22 12:34:56Z", tick=False):
        for _ in range(5):
            log_in("typed-by-evil", address="Ann@EXAMPLE.com", peer=peer, **typed)
        outbox.deliver()

    [alert] = mail.outbox
    whole = alert.message().as_string() + str(alert.body) + str(cast(EmailMultiAlternatives, alert).alternatives)
    assert told in whole
    assert "12:34" in whole
    assert reverse("password_reset") in whole
    stored = str(list(Message.objects.values()))
    for word in ("evil", "Firefox", "EXAMPLE", untold):
        assert word not in whole
        assert word not in stored


@pytest.mark.parametrize("account", [None, "unverified", "inactive"])
def test_addresses_without_a_verified_account_get_no_alert(outbox: Outbox, account: str | None) -> None:
    if account:
        verified = None if account == "unverified" else timezone.now()
        User.objects.create_user(
            "ann@example.com", PASSWORD, email_verified_at=verified, is_active=account != "inactive"
        )
    for _ in range(5):
        log_in("wrong")

    assert [(message.recipient, message.state) for message in outbox.deliver()] == [
        ("ann@example.com", State.CANCELLED)
    ]
    assert mail.outbox == []


def test_after_ten_guesses_the_network_is_refused(owner: User) -> None:
    with time_machine.travel("2026-11-22 12:00Z", tick=False) as clock:
        wrong = [log_in("wrong") for _ in range(11)]
        right = log_in(PASSWORD)
        assert not is_in(right)
        assert {without_tokens(page) for page in wrong} == {without_tokens(right)}

        assert is_in(log_in(PASSWORD, peer=THERE))
        clock.shift(60 * 15 + 1)
        assert is_in(log_in(PASSWORD))


def test_after_nine_guesses_the_right_password_still_works(owner: User) -> None:
    for _ in range(9):
        log_in("wrong")

    assert is_in(log_in(PASSWORD))


def test_guesses_are_counted_for_each_account(owner: User) -> None:
    for _ in range(15):
        log_in("wrong", address="bob@example.com")

    assert is_in(log_in(PASSWORD))


def test_a_neighbour_in_the_same_ipv6_64_is_the_same_network(owner: User) -> None:
    for n in range(10):
        log_in("wrong", peer=f"2001:db8:1:2::{n}")

    assert not is_in(log_in(PASSWORD, peer="2001:db8:1:2:ffff::1"))
    assert is_in(log_in(PASSWORD, peer="2001:db8:1:3::1"))


def test_the_admin_has_the_same_limit(db: None) -> None:
    User.objects.create_superuser("ann@example.com", PASSWORD)
    for _ in range(10):
        log_in("wrong", page="admin:login")

    assert not is_in(log_in(PASSWORD, page="admin:login"))
    assert is_in(log_in(PASSWORD, page="admin:login", peer=THERE))


def test_only_staff_can_log_in_to_the_admin(owner: User) -> None:
    assert not is_in(log_in(PASSWORD, page="admin:login"))
    User.objects.update(is_staff=True)
    assert is_in(log_in(PASSWORD, page="admin:login"))


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["login", "admin:login"])
def test_a_password_typed_into_the_wrong_field_is_not_stored(caplog: pytest.LogCaptureFixture, page: str) -> None:
    for n in range(12):
        log_in("ann@example.com", address="My-Secret-Pass9!", peer=f"192.0.2.{n}", page=page)

    assert "secret" not in str(list(MovingWindow.objects.values())).lower()
    assert "secret" not in caplog.text.lower()
    assert not Message.objects.exists()


def without_tokens(response: Any) -> str:
    return re.sub(r'(csrfmiddlewaretoken" value|nonce)="[^"]+"', "", response.content.decode())
