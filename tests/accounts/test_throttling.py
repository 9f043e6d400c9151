"""Limits on mail: counted in a table, by every process alike, and never shown."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from itertools import permutations
from typing import Any
from uuid import uuid4

import hypothesis
import pytest
import time_machine
from django.core import mail
from django.db import transaction
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from accounts import moving_window, throttling
from accounts.models import MovingWindow, User
from accounts.moving_window import Count, Limit
from accounts.throttling import Purpose
from mailer.models import Message
from mailer.testing.outbox import Outbox
from tests.accounts.steps import member, text_of
from tests.at_once import at_once, wait_for_a_lock

NOON = "2026-11-22 12:00Z"
SIGN_UP = {"password1": "correct horse 9 battery", "password2": "correct horse 9 battery"}
HERE, THERE = "192.0.2.7/32", "198.51.100.1/32"


def counts(*limits: tuple[int, int]) -> list[Count]:
    """Return the counts of a new identity."""
    return [(Limit(*limit), uuid4()) for limit in limits]


def ask(address: str = "ann@example.com", purpose: Purpose = Purpose.VERIFY) -> bool:
    return throttling.may_mail(purpose, address, about=f"{purpose} {address}", request=uuid4().hex)


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.mark.django_db
def test_one_address_gets_one_mail_a_minute_and_three_an_hour_for_a_purpose(clock: Any) -> None:
    allowed = []
    for second in range(0, 3700, 21):
        if ask():
            allowed.append(second)
        clock.shift(21)

    assert allowed == [0, 63, 126, 3612, 3675]


@pytest.mark.django_db
def test_one_address_gets_five_mails_an_hour_for_all_purposes(clock: Any) -> None:
    kinds = [Purpose.VERIFY, Purpose.ACCOUNT_EXISTS, Purpose.NEW_ADDRESS] * 3
    answers = []
    for kind in kinds:
        answers.append(ask(purpose=kind))
        clock.shift(61)

    assert answers == [True] * 5 + [False] * 4
    assert ask("bob@example.com")


@pytest.mark.django_db
def test_windows_move(clock: Any) -> None:
    hit = partial(moving_window.hit, counts((2, 3600)))

    clock.shift(3590)
    assert hit()
    clock.shift(20)  # the next hour of the clock
    assert [hit(), hit()] == [True, False]
    clock.shift(3581)
    assert [hit(), hit()] == [True, False]


@pytest.mark.django_db
@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@given(
    amounts=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 90)), min_size=1, max_size=4, unique=True),
    steps=st.lists(st.integers(0, 50), max_size=40),
)
def test_an_event_is_counted_if_it_fits_in_every_window_and_otherwise_in_none(
    clock: Any, amounts: list[tuple[int, int]], steps: list[int]
) -> None:
    limits = counts(*amounts)
    now, allowed = 0, list[int]()
    for step in steps:
        clock.shift(step)
        now += step
        fits = all(sum(at > now - seconds for at in allowed) < amount for amount, seconds in amounts)
        assert moving_window.allows(limits) == fits
        assert moving_window.hit(limits) == fits
        if fits:
            allowed.append(now)


@pytest.mark.django_db
def test_refused_requests_are_not_counted(clock: Any) -> None:
    assert ask()
    for _ in range(20):
        clock.shift(2.5)
        assert not ask()
    clock.shift(11)

    assert ask()


@pytest.mark.django_db
def test_to_ask_counts_nothing() -> None:
    limit = counts((1, 3600))

    assert all(moving_window.allows(limit) for _ in range(5))
    assert moving_window.hit(limit)
    assert not moving_window.allows(limit)


@pytest.mark.django_db
def test_a_limit_that_is_set_twice_counts_once(settings: Settings) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = [(2, 3600), (2, 3600), (9, 86400)]

    assert [throttling.may_ask(HERE) for _ in range(3)] == [True, True, False]


@pytest.mark.django_db
def test_requests_are_limited_per_network(settings: Settings, clock: Any) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = [(3, 60), (4, 3600)]

    assert [throttling.may_ask(HERE) for _ in range(5)] == [True] * 3 + [False] * 2
    assert throttling.may_ask(THERE)
    clock.shift(61)
    assert [throttling.may_ask(HERE) for _ in range(3)] == [True, False, False]


@pytest.mark.django_db
def test_the_subnetworks_of_one_subscriber_share_a_limit(settings: Settings) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = [(3, 3600)]

    of_one_56 = [throttling.may_ask(f"2001:db8:1:{n:x}::/64") for n in range(20)]
    of_one_48 = [throttling.may_ask(f"2001:db8:2:{n:x}00::/64") for n in range(20)]

    assert (sum(of_one_56), sum(of_one_48)) == (6, 12)


@pytest.mark.django_db
def test_a_mail_counts_once_however_often_it_is_tried() -> None:
    tries = [throttling.may_mail(Purpose.VERIFY, "ann@example.com", about="a link", request="one") for _ in range(9)]

    assert tries == [True] * 9
    assert not throttling.may_mail(Purpose.VERIFY, "ann@example.com", about="a link", request="another")
    assert throttling.may_mail(Purpose.VERIFY, "ann@example.com", about="a link", request="one")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("request_of_the_second", "is_allowed"), [("one", True), ("two", False)])
def test_a_worker_that_waits_for_another_one_is_refused_only_with_another_mail(
    request_of_the_second: str, is_allowed: bool
) -> None:
    def ask_for(request: str) -> bool:
        return throttling.may_mail(Purpose.RESET, "ann@example.com", about="a link", request=request)

    with ThreadPoolExecutor() as pool:
        with transaction.atomic():
            assert ask_for("one")
            second = pool.submit(at_once, [partial(ask_for, request_of_the_second)])
            wait_for_a_lock()
        assert second.result() == ([is_allowed], [])


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["resend", "password_reset"])
@pytest.mark.parametrize("asked_for", ["ann@example.com", "ann+shop@example.com", "Ann@Example.com"])
def test_mail_that_strangers_asked_for_in_vain_does_not_cost_the_owner_their_first_link(
    outbox: Outbox, page: str, asked_for: str
) -> None:
    for _ in range(9):
        Client().post(reverse(page), {"email": asked_for})
    outbox.deliver()
    assert mail.outbox == []

    Client().post(reverse("signup"), SIGN_UP | {"email": "ann@example.com"})
    outbox.deliver(after=timedelta(minutes=1))

    assert [sent.to for sent in mail.outbox] == [["ann@example.com"]]


@pytest.mark.django_db
def test_spellings_of_one_gmail_mailbox_count_as_one(outbox: Outbox) -> None:
    local = "annexample"
    spellings = [f"{local[:n]}.{local[n:]}@gmail.com" for n in range(1, len(local))]
    spellings += [f"{local}+{n}@googlemail.com" for n in range(15)]
    for address in spellings:
        Client().post(reverse("signup"), SIGN_UP | {"email": address})
    outbox.deliver(after=timedelta(minutes=1))

    assert len(mail.outbox) == 3
    assert User.objects.count() == len(spellings)  # but they are as many accounts


@pytest.mark.django_db
def test_resets_of_other_spellings_do_not_cost_the_owner_theirs(outbox: Outbox) -> None:
    member()
    for n in range(3):
        Client().post(reverse("signup"), SIGN_UP | {"email": f"ann+{n}@example.com"})
        Client().post(reverse("password_reset"), {"email": f"ann+{n}@example.com"})
    outbox.deliver(after=timedelta(minutes=1))
    before = len(mail.outbox)
    Client().post(reverse("password_reset"), {"email": "ann@example.com"})
    outbox.deliver()

    assert [sent.to for sent in mail.outbox[before:]] == [["Ann <ann@example.com>"]]


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["signup", "resend", "password_reset"])
def test_above_the_limit_of_the_network_nothing_is_done_and_the_page_says_why(page: str, settings: Settings) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = [(3, 3600)]
    answers = [Client().post(reverse(page), SIGN_UP | {"email": f"{n}@example.com"}) for n in range(5)]

    assert [answer.status_code for answer in answers] == [302] * 3 + [429] * 2
    assert "too many requests from your network" in answers[-1].content.decode()
    assert 'value="4@example.com"' in answers[-1].content.decode()
    assert Message.objects.count() == 3
    assert User.objects.count() == (3 if page == "signup" else 0)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("peers", "sent"),
    [
        (["2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:2:ffff:ffff:ffff:ffff"], 2),
        (["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8:1:4::1"], 3),
        (["192.0.2.1", "192.0.2.2", "192.0.2.3"], 3),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], 2),
    ],
)
def test_a_network_is_an_ipv4_address_or_an_ipv6_64(settings: Settings, peers: list[str], sent: int) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = [(2, 3600)]

    for n, peer in enumerate(peers):
        Client(REMOTE_ADDR=peer).post(reverse("resend"), {"email": f"{n}@example.com"})

    assert Message.objects.count() == sent


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["resend", "password_reset", "signup"])
def test_the_page_does_not_tell_that_a_mailbox_has_had_enough(page: str, user: User, outbox: Outbox) -> None:
    answers = set()
    for _ in range(4):
        for address in ("ann@example.com", "bob@example.com"):
            response = Client().post(reverse(page), SIGN_UP | {"email": address}, follow=True)
            answers.add((str(response.redirect_chain), text_of(response).replace(address, "…")))

    assert len(answers) == 1
    outbox.deliver(after=timedelta(minutes=1))
    assert len(mail.outbox) == (2 if page == "signup" else 1)


@pytest.mark.django_db
def test_each_purpose_has_its_own_limit() -> None:
    assert [ask(purpose=purpose) for purpose in (Purpose.VERIFY, Purpose.RESET) * 2] == [True, True, False, False]


@pytest.mark.django_db
def test_no_window_contains_an_address() -> None:
    for page in ("resend", "password_reset"):
        Client().post(reverse(page), {"email": "secret.ann@hidden.example"})
    for _ in range(6):
        Client().post(reverse("login"), {"username": "secret.ann@hidden.example", "password": "typed-password"})

    windows = str(list(MovingWindow.objects.values()))
    assert MovingWindow.objects.exists()
    for secret in ("secret", "ann@", "hidden", "typed-password", "127.0.0.1"):
        assert secret not in windows


@pytest.mark.django_db
def test_keys_cannot_be_found_by_hashing_addresses(settings: Settings) -> None:
    before = throttling._for(throttling.PAUSE, "mail", "ann@example.com")
    settings.SECRET_KEY = "another" * 10

    assert throttling._for(throttling.PAUSE, "mail", "ann@example.com") != before


@pytest.mark.django_db(transaction=True)
def test_of_fifty_concurrent_hits_five_are_allowed() -> None:
    answers, failures = at_once([partial(moving_window.hit, counts((5, 3600), (9, 86400)))] * 50)

    assert (failures, sorted(answers)) == ([], [False] * 45 + [True] * 5)


@pytest.mark.django_db(transaction=True)
def test_events_with_common_limits_never_wait_for_each_other_in_a_circle() -> None:
    several = counts((1000, 3600), (999, 3600), (998, 3600), (997, 3600))

    def hit_often(order: Sequence[Count]) -> bool:
        return all(moving_window.hit(order) for _ in range(10))

    hits: list[Callable[[], object]] = [partial(hit_often, order) for order in permutations(several)]
    answers, failures = at_once([*hits, *[moving_window.purge] * 10])

    assert (failures, answers.count(True)) == ([], len(hits))


@pytest.mark.django_db(transaction=True)
def test_of_fifty_mails_at_once_one_is_sent() -> None:
    answers, failures = at_once([ask] * 50)

    assert (failures, answers.count(True)) == ([], 1)


@pytest.mark.django_db
def test_windows_without_an_event_are_purged(clock: Any) -> None:
    ask()
    assert (
        MovingWindow.objects.count() == 4
    )  # a minute, an hour for the purpose and for all, a week for the mail itself
    for days, left in ((0, 4), (1, 1), (7, 0)):
        clock.shift(timedelta(days=days, seconds=1))
        moving_window.purge()
        assert MovingWindow.objects.count() == left
