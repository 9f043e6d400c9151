"""Delete accounts: by their owners, or because they were never verified."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import deletion, email_change, links, passwords, tasks, verification
from accounts.emails import PasswordChanged
from accounts.models import EmailChange, EmailVerification, MovingWindow, User
from accounts.sessions import Session
from mailer import outbox
from mailer.models import Message
from tests.accounts.steps import (
    ANN,
    NEW_PASSWORD,
    PASSWORD,
    deliver_all,
    is_in,
    link_to,
    log_in,
    mails_to,
    member,
    sign_up,
)
from tests.at_once import at_once

pytestmark = pytest.mark.django_db


def leave(client: Client, password: str = PASSWORD):  # type: ignore[no-untyped-def]
    return client.post(reverse("delete_account"), {"password": password})


def test_deleting_needs_the_password() -> None:
    member()
    browser = log_in()

    for password in ("wrong", ""):
        answer = leave(browser, password)
        assert (answer.status_code, list(answer.context["form"].errors)) == (200, ["password"])

    assert User.objects.count() == 1
    assert mails_to(ANN) == []


def test_deleting_an_account_keeps_its_messages_and_sends_a_last_mail() -> None:
    user = member()
    here, there = log_in(), log_in()
    deliver_all()
    outbox.enqueue(PasswordChanged(user))
    deliver_all()
    email_change.request(user, "new@example.com")
    verification.begin(user)

    answer = leave(here)

    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert "Your account has been deleted" in here.get("/").content.decode()
    assert (is_in(here), is_in(there), is_in(log_in())) == (False, False, False)
    assert [table.objects.count() for table in (User, EmailChange, EmailVerification)] == [0, 0, 0]
    assert Session.objects.exclude(user=None).count() == 0
    assert [message.kind for message in Message.objects.waiting()] == ["accounts.AccountDeleted"]
    deliver_all()
    assert mails_to(ANN) == [
        ("PasswordChanged", "sent"),
        ("AddressChangeRequested", "cancelled"),
        ("AccountDeleted", "sent"),
    ]
    assert mails_to("new@example.com") == [("ConfirmNewAddress", "cancelled")]
    assert set(Message.objects.values_list("user", flat=True)) == {None}
    assert mail.outbox[-1].to == ["Ann <ann@example.com>"]


def test_a_deleted_address_can_sign_up_again(client: Client) -> None:
    member()
    leave(log_in())

    with time_machine.travel(timezone.now() + timedelta(minutes=2)):
        sign_up(client)
        deliver_all()
        assert client.post(link_to(ANN)).status_code == 200

    assert is_in(log_in())


@pytest.mark.django_db(transaction=True)
def test_concurrent_deletions_send_one_last_mail() -> None:
    member()
    browsers = [log_in() for _ in range(5)]

    answers, failures = at_once([partial(leave, browser) for browser in browsers])

    assert failures == []
    assert {answer.status_code for answer in answers} == {302}
    assert mails_to(ANN) == [("AccountDeleted", "queued")]


@pytest.mark.django_db(transaction=True)
def test_of_a_concurrent_deletion_and_reset_one_succeeds() -> None:
    for round_ in range(10):
        user = member(f"ann{round_}@example.com")
        token = links.reset_tokens.make_token(user)
        both: list[Callable[[], object]] = [
            partial(deletion.delete, user),
            partial(passwords.reset, user.pk, token, NEW_PASSWORD),
        ]

        results, failures = at_once(both)

        assert failures == []
        assert Counter(results) == {True: 1, False: 1}
        left = User.objects.filter(pk=user.pk).first()
        assert left is None or left.check_password(NEW_PASSWORD)


@pytest.mark.django_db(transaction=True)
def test_a_concurrent_deletion_and_change_of_password_do_not_fail() -> None:
    for round_ in range(5):
        user = member(f"ann{round_}@example.com")
        browser, other = log_in(user.email), log_in(user.email)
        data = {"old_password": PASSWORD, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}

        answers, failures = at_once([partial(leave, browser), partial(other.post, reverse("password_change"), data)])

        assert failures == []
        assert {answer.status_code for answer in answers} == {302}


def joined(days: float, email: str, **fields: object) -> User:
    return User.objects.create(email=email, date_joined=timezone.now() - timedelta(days=days), **fields)


def test_the_purge_deletes_only_accounts_unverified_for_a_week() -> None:
    joined(7.01, "gone@example.com")
    joined(6.99, "young@example.com")
    joined(99, "verified@example.com", email_verified_at=timezone.now())
    joined(99, "once@example.com", was_verified=True)
    joined(99, "staff@example.com", is_staff=True)
    joined(99, "root@example.com", is_superuser=True)

    for _ in range(2):
        tasks.purge()
        assert sorted(User.objects.values_list("email", flat=True)) == [
            "once@example.com",
            "root@example.com",
            "staff@example.com",
            "verified@example.com",
            "young@example.com",
        ]


def test_messages_are_kept_when_an_account_is_purged(client: Client) -> None:
    with time_machine.travel(timezone.now() - timedelta(days=8)):
        sign_up(client)
        deliver_all()

    deletion.purge()

    message = Message.objects.get()
    assert (message.user, message.recipient, message.state) == (None, ANN, "sent")
    assert EmailVerification.objects.count() == 0


def test_the_purge_deletes_old_links_sessions_and_windows() -> None:
    user, now = member(), timezone.now()
    for days in (31, 29):
        expired = now - timedelta(days=days)
        EmailVerification.objects.create(user=user, address=ANN, expires_at=expired, used_at=now)
        EmailChange.objects.create(
            user=user, old_address=ANN, new_address="b@x.com", expires_at=expired, stopped_at=now
        )
    with time_machine.travel(now - timedelta(days=15)):
        log_in()
    browser = log_in()
    for age in (59, 61):
        MovingWindow.objects.create(key=uuid4(), amount=1, seconds=60, hits=[now.timestamp() - age])

    for _ in range(2):
        deletion.purge()
        tables = (EmailVerification, EmailChange, Session, MovingWindow)
        assert [table.objects.count() for table in tables] == [1, 1, 1, 1]
    assert is_in(browser)


def test_thousands_are_purged_in_batches(django_assert_max_num_queries) -> None:  # type: ignore[no-untyped-def]
    old = timezone.now() - timedelta(days=8)
    User.objects.bulk_create(User(email=f"u{number}@example.com", date_joined=old) for number in range(3 * 500 + 1))
    member()

    with django_assert_max_num_queries(120):
        deletion.purge()

    assert User.objects.get().email == ANN


@pytest.mark.django_db(transaction=True)
def test_the_purge_keeps_an_account_that_is_verified_concurrently() -> None:
    for round_ in range(5):
        user = joined(8, f"u{round_}@example.com")
        link = verification.begin(user)
        code = links.code(links.VERIFY, link)
        both: list[Callable[[], object]] = [
            partial(verification.complete, link.pk, code, password=None),
            deletion.purge,
        ]

        results, failures = at_once(both)

        assert failures == []
        state = next(result.state for result in results if isinstance(result, links.Link))
        assert User.objects.filter(pk=user.pk).exists() is (state is links.LinkState.DONE)
