"""Sign up, resend and log in, through the pages."""

from datetime import timedelta
from unittest.mock import ANY

import pytest
import time_machine
from django.core import mail
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts import signup
from accounts.emails import VerifyAddress
from accounts.models import EmailVerification, User
from mailer.models import Message, State
from mailer.testing.outbox import Outbox
from tests.accounts.steps import text_of
from tests.at_once import at_once
from tests.servers import Postgres

PASSWORD = "correct horse 9 battery"


def sign_up(client: Client, email: str = "ann@example.com", password: str = PASSWORD, again: str | None = None):  # type: ignore[no-untyped-def]
    data = {"email": email, "password1": password, "password2": password if again is None else again}
    return client.post(reverse("signup"), data, follow=True)


@pytest.mark.django_db
def test_a_sign_up_creates_user_verification_and_message(client: Client, outbox: Outbox) -> None:
    response = sign_up(client, "Ann@Example.COM")

    assert response.redirect_chain == [(reverse("check_inbox"), 302)]
    assert "ann@example.com" in response.content.decode()
    user = User.objects.get()
    assert (user.email, user.has_verified_email, user.check_password(PASSWORD)) == ("ann@example.com", False, True)
    verification = EmailVerification.objects.get(user=user)
    assert verification.expires_at - verification.created_at == pytest.approx(
        timedelta(hours=24), abs=timedelta(seconds=1)
    )
    message = outbox.only(VerifyAddress)
    assert (message.recipient, message.user, message.queue) == ("ann@example.com", user, "critical")
    assert message.arguments == {"verification": str(verification.pk), "request": ANY}
    assert message.due_at - message.created_at == timedelta(seconds=5)
    assert message.expires_at == verification.expires_at


@pytest.mark.django_db(transaction=True)
def test_a_sign_up_that_is_rolled_back_stores_nothing() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        signup.sign_up("ann@example.com", PASSWORD, language="en")
        raise ZeroDivisionError

    assert (User.objects.count(), EmailVerification.objects.count(), Message.objects.count()) == (0, 0, 0)


@pytest.mark.django_db
def test_a_known_verified_address_gets_one_notice_and_keeps_its_password(client: Client, outbox: Outbox) -> None:
    User.objects.create_superuser("ann@example.com", "the old password")

    first = sign_up(client, "new@example.com")
    for _ in range(3):
        second = sign_up(client, "ann@example.com")

    delivered = {(message.kind, message.state) for message in outbox.deliver(after=timedelta(minutes=1))}
    assert delivered == {
        ("accounts.VerifyAddress", State.SENT),
        ("accounts.AccountExists", State.SENT),
        ("accounts.AccountExists", State.CANCELLED),
    }
    assert len(mail.outbox) == 2
    assert User.objects.get(email="ann@example.com").check_password("the old password")
    assert text_of(second).replace("ann@", "new@") == text_of(first)


@pytest.mark.django_db
def test_signing_up_again_before_verifying_sends_the_link_again_after_a_minute(client: Client, outbox: Outbox) -> None:
    with time_machine.travel("2026-11-21 12:00Z", tick=False) as clock:
        sign_up(client)
        sign_up(client, password="another passphrase 7")
        clock.shift(6)
        assert [message.state for message in outbox.deliver(after=timedelta(seconds=6))] == [
            State.SENT,
            State.CANCELLED,
        ]
        clock.shift(61)
        sign_up(client, password="another passphrase 7")
        clock.shift(6)
        assert [message.state for message in outbox.deliver(after=timedelta(seconds=6))] == [State.SENT]

    assert EmailVerification.objects.filter(superseded_at=None).count() == 1
    assert User.objects.get().check_password(PASSWORD)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "data", "complaint"),
    [
        ("email", {"email": ""}, "This field is required."),
        ("email", {"email": "ann"}, "with one @ sign"),
        ("email", {"email": "mıke@x.com"}, "Before the @ sign"),
        ("email", {"email": "a" * 65 + "@example.com"}, "too long"),
        ("email", {"email": "ann@localhost"}, "reserved"),
        ("email", {"email": "ann@[127.0.0.1]"}, "a domain that can receive"),
        ("email", {"email": "a@x.com, b@x.com"}, ""),
        ("email", {"email": "ann@example.com\r\nBcc: b@x.com"}, ""),
        ("email", {"email": "ann\x00@example.com"}, "Null characters"),
        ("password2", {"password2": "something else 1"}, "match"),
        ("password2", {"password1": "12345678", "password2": "12345678"}, "too common"),
        ("password2", {"password1": "ann@example.com", "password2": "ann@example.com"}, "too similar"),
    ],
)
def test_invalid_input_is_refused_at_its_field(
    client: Client, field: str, data: dict[str, str], complaint: str
) -> None:
    good = {"email": "ann@example.com", "password1": PASSWORD, "password2": PASSWORD}
    response = client.post(reverse("signup"), good | data)

    assert response.status_code == 200
    assert list(response.context["form"].errors) == [field]
    assert complaint in str(response.context["form"].errors[field])
    assert User.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_a_hundred_concurrent_sign_ups_with_one_address_make_one_account_one_link_and_one_mail(
    outbox: Outbox, settings: Settings
) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = [(100, 3600)]
    data = {"email": "ann@example.com", "password1": PASSWORD, "password2": PASSWORD}

    answers, failures = at_once([lambda: Client().post(reverse("signup"), data).status_code] * 100)

    assert (failures, answers) == ([], [302] * 100)
    outbox.deliver(after=timedelta(minutes=1))
    assert (User.objects.count(), EmailVerification.objects.count(), len(mail.outbox)) == (1, 1, 1)


@pytest.mark.django_db
def test_resend_sends_the_link_again_and_answers_all_addresses_alike(client: Client, outbox: Outbox) -> None:
    with time_machine.travel(timezone.now() - timedelta(minutes=2)) as clock:
        sign_up(client)
        clock.shift(6)
        outbox.deliver()
    known, unknown = (  # in the browser that signed up, the page also asks for the code of its own address
        Client().post(reverse("resend"), {"email": address}, follow=True)
        for address in ("ann@example.com", "bob@example.com")
    )

    assert text_of(known).replace("ann@", "bob@") == text_of(unknown)
    assert [(message.kind, message.state) for message in outbox.deliver()] == [
        ("accounts.VerifyAddressAgain", State.SENT),
        ("accounts.VerifyAddressAgain", State.CANCELLED),  # no such account; only the worker knows
    ]
    assert EmailVerification.objects.count() == 1


@pytest.mark.django_db
def test_logging_in_needs_the_right_password_and_a_verified_address(client: Client) -> None:
    sign_up(client)

    def log_in(password: str):  # type: ignore[no-untyped-def]
        return client.post(reverse("login"), {"username": "ANN@example.com", "password": password})

    wrong = log_in("wrong")
    assert wrong.status_code == 200
    assert "Open the link in the e-mail" not in wrong.content.decode()
    assert reverse("resend") in wrong.content.decode()
    unverified = log_in(PASSWORD)
    assert "Open the link in the e-mail" in unverified.content.decode()
    assert unverified.content.decode().count(reverse("resend")) == 1
    assert "_auth_user_id" not in client.session

    User.objects.update(email_verified_at="2026-11-21T12:00Z")
    assert log_in(PASSWORD).headers["Location"] == "/"
    assert "_auth_user_id" in client.session

    assert client.get(reverse("logout")).status_code == 405
    client.post(reverse("logout"))
    assert "_auth_user_id" not in client.session


@pytest.mark.django_db(transaction=True)
def test_a_known_address_is_not_written_to_the_log_of_postgresql(postgres: Postgres) -> None:
    for _ in range(2):
        signup.sign_up("trace@example.com", PASSWORD, language="en")

    assert "trace@" not in postgres.log.read_text()
