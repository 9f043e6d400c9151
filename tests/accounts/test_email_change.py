"""Change the address of an account."""

import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import ClassVar

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts import deletion, email_change, links, verification
from accounts.links import LinkState
from accounts.models import EmailChange, User
from mailer.email import Stream
from mailer.models import Message
from mailer.recipients import subscriptions
from mailer.recipients.subscriptions import Membership
from tests.accounts.steps import (
    ANN,
    NEW_PASSWORD,
    PASSWORD,
    choose,
    deliver_all,
    is_in,
    link_to,
    log_in,
    mails_to,
    member,
    sign_up,
    text_of,
)
from tests.at_once import at_once
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db

NEW = "ann@new.example"


class Digest(Plain):
    stream: ClassVar = Stream("digest", "Digest")


def ask(client: Client, address: str = NEW, password: str = PASSWORD):  # type: ignore[no-untyped-def]
    return client.post(reverse("email_change"), {"email": address, "password": password})


def request_change(user: User, address: str = NEW) -> EmailChange:
    email_change.request(user, address)
    return EmailChange.objects.latest("created_at")


def code_to_confirm(change: EmailChange) -> str:
    return links.code(links.CONFIRM_CHANGE, change)


def code_to_stop(change: EmailChange) -> str:
    return links.code(links.STOP_CHANGE, change)


def confirm(change: EmailChange) -> LinkState:
    return email_change.confirm(change.pk, code_to_confirm(change), password=None).state


def stop(change: EmailChange) -> LinkState:
    return email_change.stop(change.pk, code_to_stop(change)).state


@pytest.mark.parametrize(
    ("address", "password", "field"),
    [(NEW, "wrong", "password"), (NEW, "", "password"), (ANN, PASSWORD, "email"), ("ann@", PASSWORD, "email")],
)
def test_a_change_needs_the_password_and_a_different_address(address: str, password: str, field: str) -> None:
    member()
    answer = ask(log_in(), address, password)

    assert answer.status_code == 200
    assert list(answer.context["form"].errors) == [field]
    assert EmailChange.objects.count() == 0


def test_the_new_address_confirms_and_the_old_one_gets_two_notices() -> None:
    member()
    browser = log_in()
    ask(browser, "Ann@New.EXAMPLE")
    deliver_all()
    assert (mails_to(ANN), mails_to(NEW)) == ([("AddressChangeRequested", "sent")], [("ConfirmNewAddress", "sent")])

    link = link_to(NEW)
    for _ in range(2):
        page = browser.get(link)
        assert (page.status_code, page["Referrer-Policy"]) == (200, "strict-origin")
        assert "no-store" in page["Cache-Control"]
    assert User.objects.get().email == ANN
    answers = [Client().post(link, {"password": PASSWORD}) for _ in range(2)]  # without a log-in
    deliver_all()

    assert [(answer.status_code, answer.context["state"]) for answer in answers] == [(200, "done"), (410, "used")]
    assert mails_to(ANN)[1:] == [("AddressChanged", "sent")]
    assert is_in(browser)
    assert is_in(log_in(NEW))
    assert not is_in(log_in(ANN))


def test_the_old_address_can_stop_it(client: Client) -> None:
    member()
    ask(log_in())
    deliver_all()
    to_confirm, to_stop = link_to(NEW), link_to(ANN)
    assert client.get(to_stop).status_code == 200

    answers = [client.post(to_stop), client.post(to_stop), client.get(to_confirm), client.post(to_confirm)]

    assert [(answer.status_code, answer.context["state"]) for answer in answers] == [
        (200, "done"),
        *[(410, "stopped")] * 3,
    ]
    user = User.objects.get()
    assert (user.email, user.check_password(PASSWORD)) == (ANN, True)


def test_the_owner_of_a_mistyped_new_address_needs_the_password() -> None:
    member()
    ask(log_in())
    deliver_all()
    link, stranger = link_to(NEW), Client()

    assert "password" in stranger.get(link).content.decode()
    for data in ({}, {"password": "a guess"}):
        answer = stranger.post(link, data)
        assert (answer.status_code, answer.context["state"]) == (200, "wrong_password")
    assert User.objects.get().email == ANN
    for _ in range(10):
        stranger.post(link, {"password": "a guess"})
    assert stranger.post(link, {"password": PASSWORD}).context["state"] == "wrong_password"  # too many guesses
    assert User.objects.get().email == ANN
    assert log_in().post(link).context["state"] == "done"  # they do not lock the owner out


def test_the_mail_that_can_undo_a_change_is_not_sent_after_its_link_stopped_working() -> None:
    change = request_change(member())
    email_change.confirm(change.pk, code_to_confirm(change), password=None)

    change.refresh_from_db()
    assert change.confirmed_at
    assert Message.objects.get(kind="accounts.AddressChanged").expires_at == change.confirmed_at + timedelta(days=7)


def test_the_old_address_can_undo_a_change_for_a_week(client: Client) -> None:
    member()
    with time_machine.travel("2026-11-21 12:00Z", tick=False) as clock:
        attacker, elsewhere = log_in(), log_in()
        ask(attacker)
        deliver_all()
        attacker.post(link_to(NEW))
        deliver_all()
        clock.shift(timedelta(days=6, hours=23))
        assert client.get(link_to(ANN)).context["state"] == "reversible"
        assert is_in(attacker)

        answer = attacker.post(link_to(ANN))  # even in the attacker's browser

        assert (answer.status_code, answer.context["state"]) == (200, "done")
        user = User.objects.get()
        assert (user.email, user.has_verified_email, user.has_usable_password()) == (ANN, True, False)
        assert user.sessions.count() == 0  # the rows are deleted, not only their hashes invalid
        assert (is_in(attacker), is_in(elsewhere)) == (False, False)
        assert not any(is_in(log_in(address)) for address in (ANN, NEW))
        deliver_all()
        assert mails_to(ANN)[-1] == ("ResetPassword", "sent")
        choose(client, link_to(ANN))
        assert is_in(log_in(password=NEW_PASSWORD))


def test_strangers_who_ask_for_resets_do_not_cost_the_owner_the_one_after_undoing() -> None:
    with time_machine.travel("2026-11-22 12:00Z", tick=False) as clock:
        member()
        for _ in range(3):
            Client().post(reverse("password_reset"), {"email": ANN})
            deliver_all()
            clock.shift(61)
        thief = log_in()
        thief.post(reverse("email_change"), {"email": "evil@example.com", "password": PASSWORD})
        deliver_all()
        thief.post(link_to("evil@example.com"))
        deliver_all()
        Client().post(link_to(ANN))
        deliver_all()

    assert mails_to(ANN)[-1] == ("ResetPassword", "sent")


def test_a_change_cannot_be_undone_after_a_week(client: Client) -> None:
    change = request_change(member())
    with time_machine.travel("2026-11-21 12:00Z", tick=False) as clock:
        EmailChange.objects.update(expires_at=timezone.now() + timedelta(hours=1))
        assert confirm(change) is LinkState.DONE
        clock.shift(timedelta(days=7))
        path = reverse("email_change_stop", args=[change.pk, code_to_stop(change)])
        for answer in (client.get(path), client.post(path)):
            assert (answer.status_code, answer.context["state"]) == (410, "expired")

    assert User.objects.get().email == NEW


def test_the_first_address_can_undo_later_changes_too() -> None:
    first = request_change(user := member())
    confirm(first)
    second = request_change(user, "evil@example.com")
    confirm(second)
    third = request_change(user, "evil@example.net")

    assert stop(first) is LinkState.DONE

    user.refresh_from_db()
    assert (user.email, user.has_usable_password()) == (ANN, False)
    assert [stop(later) for later in (first, second, third)] == [LinkState.STOPPED] * 3
    assert confirm(third) is LinkState.STOPPED
    assert User.objects.get().email == ANN


def test_the_second_address_can_undo_the_second_change() -> None:
    confirm(first := request_change(user := member()))
    confirm(second := request_change(user, "evil@example.com"))

    assert stop(second) is LinkState.DONE
    assert User.objects.get().email == NEW
    assert stop(first) is LinkState.DONE
    assert User.objects.get().email == ANN


def test_an_unverified_account_does_not_prevent_undoing(client: Client) -> None:
    confirm(change := request_change(user := member()))
    sign_up(client)  # with the old address; the link in the mail to it proves who owns it

    path = reverse("email_change_stop", args=[change.pk, code_to_stop(change)])
    assert client.get(path).context["state"] == "reversible"
    assert client.post(path).context["state"] == "done"

    assert [each.pk for each in User.objects.all()] == [user.pk]
    assert User.objects.get().email == ANN
    deliver_all()
    assert ("VerifyAddress", "cancelled") in mails_to(ANN)


def test_undoing_does_not_touch_another_verified_account(client: Client) -> None:
    confirm(change := request_change(member()))
    member()

    path = reverse("email_change_stop", args=[change.pk, code_to_stop(change)])
    for answer in (client.get(path), client.post(path)):
        assert (answer.status_code, answer.context["state"]) == (410, "taken")
    assert sorted(User.objects.values_list("email", flat=True)) == [ANN, NEW]


def test_a_taken_address_gets_no_mail_and_the_page_does_not_tell() -> None:
    member()
    member("bob@example.com")
    browser = log_in()

    free, taken = ask(browser), ask(browser, "bob@example.com")
    deliver_all()

    assert text_of(taken).replace("bob@example.com", NEW) == text_of(free)
    assert mails_to("bob@example.com") == [("ConfirmNewAddress", "cancelled")]


def test_an_address_that_was_taken_since_the_request_stays_with_its_account(client: Client) -> None:
    change = request_change(member())
    member(NEW)

    path = reverse("email_change_confirm", args=[change.pk, code_to_confirm(change)])
    for answer in (client.get(path), client.post(path)):
        assert (answer.status_code, answer.context["state"]) == (410, "taken")
    assert User.objects.get(email=ANN).check_password(PASSWORD)


@pytest.mark.django_db(transaction=True)
def test_of_two_concurrent_changes_to_one_address_one_succeeds() -> None:
    for round_ in range(5):
        changes = [
            request_change(member(f"{name}{round_}@example.com"), f"same{round_}@example.com")
            for name in ("ann", "bob")
        ]

        states, failures = at_once([partial(confirm, change) for change in changes])

        assert failures == []
        assert sorted(states) == [LinkState.DONE, LinkState.TAKEN]


@pytest.mark.django_db(transaction=True)
def test_of_twenty_concurrent_confirmations_one_succeeds() -> None:
    change = request_change(member())
    path = reverse("email_change_confirm", args=[change.pk, code_to_confirm(change)])

    statuses, failures = at_once([lambda: Client().post(path, {"password": PASSWORD}).status_code] * 20)

    assert failures == []
    assert Counter(statuses) == {200: 1, 410: 19}
    assert mails_to(ANN) == [("AddressChangeRequested", "queued"), ("AddressChanged", "queued")]


@pytest.mark.django_db(transaction=True)
def test_concurrent_confirming_and_stopping_keep_the_old_address() -> None:
    for round_ in range(10):
        change = request_change(member(f"ann{round_}@example.com"), f"evil{round_}@example.com")

        (states, failures) = at_once([partial(confirm, change), partial(stop, change)])

        assert failures == []
        change.refresh_from_db()
        assert (change.user.email, stop(change)) == (change.old_address, LinkState.STOPPED)
        assert change.user.has_usable_password() is (change.confirmed_at is None)
        assert Counter(states)[LinkState.DONE] == (1 if change.confirmed_at is None else 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("act", [confirm, stop])
def test_using_a_link_while_its_account_is_deleted_does_not_fail(
    act: Callable[[EmailChange], LinkState],
) -> None:
    for round_ in range(10):
        change = request_change(user := member(f"ann{round_}@example.com"))
        ending: list[Callable[[], object]] = [partial(act, change), partial(deletion.delete, user)]

        _, failures = at_once(ending)

        assert failures == []
        assert act(change) is LinkState.UNKNOWN


def test_a_newer_request_stops_the_older_one() -> None:
    older = request_change(user := member())
    newer = request_change(user, "ann@newer.example")

    assert confirm(older) is stop(older) is LinkState.STOPPED
    assert confirm(newer) is LinkState.DONE


def test_a_link_expires_after_a_day() -> None:
    change = request_change(member())
    with time_machine.travel(change.created_at + timedelta(hours=24, seconds=1)):
        assert confirm(change) is stop(change) is LinkState.EXPIRED

    assert User.objects.get().email == ANN


@pytest.mark.parametrize("spoil", ["other purpose", "upper case", "=3D", ">", "id", "other row", "cut off"])
@pytest.mark.parametrize("purpose", ["confirm", "stop"])
def test_a_link_that_was_never_sent_is_unknown(client: Client, purpose: str, spoil: str) -> None:
    change = request_change(member())
    other = request_change(member("bob@example.com"), "bob@new.example")
    codes = {"confirm": code_to_confirm(change), "stop": code_to_stop(change)}
    code = codes[purpose]
    pk, code = {
        "other purpose": (change.pk, codes["stop" if purpose == "confirm" else "confirm"]),
        "upper case": (change.pk, code.upper()),
        "=3D": (change.pk, f"=3D{code}"),
        ">": (change.pk, f"{code}>"),
        "id": (uuid.uuid4(), code),
        "other row": (other.pk, code),
        "cut off": (change.pk, code[:-1]),
    }[spoil]

    for answer in (client.get(path := reverse(f"email_change_{purpose}", args=[pk, code])), client.post(path)):
        assert (answer.status_code, answer.context["state"]) == (404, "unknown")
        assert ANN not in answer.content.decode()
    assert sorted(User.objects.values_list("email", flat=True)) == [ANN, "bob@example.com"]


def test_a_change_ends_the_links_that_were_sent_before_it(client: Client) -> None:
    change = request_change(user := member())
    verifying = verification.begin(user)
    resetting = links.to_reset_password(user).removeprefix("http://localhost:8000")

    confirm(change)

    assert choose(client, resetting).status_code == 410
    code = links.code(links.VERIFY, verifying)
    assert verification.complete(verifying.pk, code, password=PASSWORD).state is LinkState.SUPERSEDED


def test_a_confirmed_address_is_verified_even_if_the_old_one_was_not() -> None:
    change = request_change(User.objects.create_user(ANN, PASSWORD))

    confirm(change)

    user = User.objects.get()
    assert (user.email, user.has_verified_email, user.was_verified) == (NEW, True, True)


def test_a_request_ends_when_the_old_address_changes() -> None:
    change = request_change(member())
    User.objects.update(email="given-by-admin@example.com")

    assert confirm(change) is LinkState.STOPPED
    assert User.objects.get().email == "given-by-admin@example.com"


def test_the_new_address_of_a_deactivated_account_gets_no_mail() -> None:
    request_change(member())
    User.objects.update(is_active=False)
    deliver_all()

    assert mails_to(NEW) == [("ConfirmNewAddress", "cancelled")]


def test_unsubscribes_apply_to_the_new_address() -> None:
    change = request_change(member())
    subscriptions.unsubscribe(Membership(ANN, Digest.stream))

    confirm(change)

    assert subscriptions.is_unsubscribed(Membership(NEW, Digest.stream))


def test_a_mistyped_new_address_does_not_learn_the_old_one() -> None:
    change = request_change(member())
    deliver_all()

    [letter] = [sent for sent in mail.outbox if NEW in sent.to[0]]
    page = Client().get(link_to(NEW))
    for told in (letter.message().as_string(), str(letter.body), page.content.decode()):
        assert NEW in told
        assert change.old_address not in told
