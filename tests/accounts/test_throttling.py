"""Limits on mail: counted in Redis, or in a table while Redis is away, and never shown."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import redis
import time_machine
from django.core import mail
from django.test import Client
from django.urls import reverse
from limits import parse
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts import throttling
from accounts.models import Hit, User
from accounts.throttling import Purpose
from mailer.models import Message
from mailer.testing.outbox import Outbox
from tests.accounts.steps import member, text_of
from tests.at_once import at_once
from tests.servers import Valkey

NOON = "2026-11-22 12:00Z"
SIGN_UP = {"password1": "correct horse 9 battery", "password2": "correct horse 9 battery"}
HERE, THERE = "192.0.2.7/32", "198.51.100.1/32"


def ask(address: str = "ann@example.com", purpose: Purpose = Purpose.VERIFY) -> bool:
    return throttling.may_mail(purpose, address, about=f"{purpose} {address}", request=uuid4().hex)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis stays away."""
    monkeypatch.setattr(throttling.counter, "_try_redis_at", float("inf"))


@pytest.fixture(params=["Redis", "table"])
def store(request: pytest.FixtureRequest) -> str:
    """Run the test with both stores."""
    if request.param == "table":
        request.getfixturevalue("table")
    return str(request.param)


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.mark.django_db
def test_one_address_gets_one_mail_a_minute_and_three_an_hour_for_a_purpose(store: str, clock: Any) -> None:
    allowed = []
    for second in range(0, 3700, 21):
        if ask():
            allowed.append(second)
        clock.shift(21)

    assert allowed == [0, 63, 126, 3612, 3675]
    assert (Hit.objects.count() > 0) == (store == "table")


@pytest.mark.django_db
def test_one_address_gets_five_mails_an_hour_for_all_purposes(store: str, clock: Any) -> None:
    kinds = [Purpose.VERIFY, Purpose.ACCOUNT_EXISTS, Purpose.NEW_ADDRESS] * 3
    answers = []
    for kind in kinds:
        answers.append(ask(purpose=kind))
        clock.shift(61)

    assert answers == [True] * 5 + [False] * 4
    assert ask("bob@example.com")


@pytest.mark.django_db
def test_windows_move(store: str, clock: Any) -> None:
    limit = parse("2/hour")
    hit = partial(throttling.counter.hit, limit, "key")

    clock.shift(3590)
    assert hit()
    clock.shift(20)  # the next hour of the clock
    assert [hit(), hit()] == [True, False]
    clock.shift(3581)
    assert [hit(), hit()] == [True, False]


@pytest.mark.django_db
def test_refused_requests_are_not_counted(store: str, clock: Any) -> None:
    assert ask()
    for _ in range(20):
        clock.shift(2.5)
        assert not ask()
    clock.shift(11)

    assert ask()


@pytest.mark.django_db
def test_would_allow_counts_nothing(store: str) -> None:
    limit = parse("1/hour")

    assert all(throttling.counter.would_allow(limit, "key") for _ in range(5))
    assert throttling.counter.hit(limit, "key")
    assert not throttling.counter.would_allow(limit, "key")


@pytest.mark.django_db
def test_requests_are_limited_per_network(store: str, settings: Settings, clock: Any) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = "3/minute; 4/hour"

    assert [throttling.may_ask(HERE) for _ in range(5)] == [True] * 3 + [False] * 2
    assert throttling.may_ask(THERE)
    clock.shift(61)
    assert [throttling.may_ask(HERE) for _ in range(3)] == [True, False, False]


@pytest.mark.django_db
def test_the_subnetworks_of_one_subscriber_share_a_limit(store: str, settings: Settings) -> None:
    settings.ACCOUNTS_MAIL_PER_NETWORK = "3/hour"

    of_one_56 = [throttling.may_ask(f"2001:db8:1:{n:x}::/64") for n in range(20)]
    of_one_48 = [throttling.may_ask(f"2001:db8:2:{n:x}00::/64") for n in range(20)]

    assert (sum(of_one_56), sum(of_one_48)) == (6, 12)


@pytest.mark.django_db
def test_a_mail_counts_once_however_often_it_is_tried(store: str) -> None:
    tries = [throttling.may_mail(Purpose.VERIFY, "ann@example.com", about="a link", request="one") for _ in range(9)]

    assert tries == [True] * 9
    assert not throttling.may_mail(Purpose.VERIFY, "ann@example.com", about="a link", request="another")
    assert throttling.may_mail(Purpose.VERIFY, "ann@example.com", about="a link", request="one")


@pytest.mark.django_db
def test_two_workers_with_one_message_do_not_refuse_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hit, others = throttling.counter.hit, []

    def hit_with_another_worker_behind(limit: Any, *identity: str) -> bool:
        """After each hit of the first worker, the second asks."""
        done = hit(limit, *identity)
        monkeypatch.setattr(throttling.counter, "hit", hit)
        others.append(throttling.may_mail(Purpose.RESET, "ann@example.com", about="a link", request="one"))
        monkeypatch.setattr(throttling.counter, "hit", hit_with_another_worker_behind)
        return done

    monkeypatch.setattr(throttling.counter, "hit", hit_with_another_worker_behind)

    assert throttling.may_mail(Purpose.RESET, "ann@example.com", about="a link", request="one")
    assert len(others) > 2
    assert all(others)


@pytest.mark.django_db
@pytest.mark.parametrize("hits", range(3))
def test_a_mail_is_tried_again_although_redis_went_away_while_it_was_counted(
    hits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hit = throttling.counter.hit
    done: list[Any] = []

    def hit_until_redis_goes(limit: Any, *identity: str) -> bool:
        if len(done) == hits:
            monkeypatch.setattr(throttling.counter, "_try_redis_at", float("inf"))
        done.append(limit)
        return hit(limit, *identity)

    monkeypatch.setattr(throttling.counter, "hit", hit_until_redis_goes)
    assert throttling.may_mail(Purpose.RESET, "ann@example.com", about="a link", request="one")
    assert len(done) > hits
    monkeypatch.setattr(throttling.counter, "hit", hit)
    assert throttling.may_mail(Purpose.RESET, "ann@example.com", about="a link", request="one")
    monkeypatch.setattr(throttling.counter, "_try_redis_at", 0.0)
    assert throttling.may_mail(Purpose.RESET, "ann@example.com", about="a link", request="one")


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["resend", "password_reset"])
@pytest.mark.parametrize("asked_for", ["ann@example.com", "ann+shop@example.com", "Ann@Example.com"])
def test_mail_that_strangers_asked_for_in_vain_does_not_cost_the_owner_their_first_link(
    store: str, outbox: Outbox, page: str, asked_for: str
) -> None:
    for _ in range(9):
        Client().post(reverse(page), {"email": asked_for})
    outbox.deliver()
    assert mail.outbox == []

    Client().post(reverse("signup"), SIGN_UP | {"email": "ann@example.com"})
    outbox.deliver(after=timedelta(minutes=1))

    assert [sent.to for sent in mail.outbox] == [["ann@example.com"]]


@pytest.mark.django_db
def test_spellings_of_one_gmail_mailbox_count_as_one(store: str, outbox: Outbox) -> None:
    local = "annexample"
    spellings = [f"{local[:n]}.{local[n:]}@gmail.com" for n in range(1, len(local))]
    spellings += [f"{local}+{n}@googlemail.com" for n in range(15)]
    for address in spellings:
        Client().post(reverse("signup"), SIGN_UP | {"email": address})
    outbox.deliver(after=timedelta(minutes=1))

    assert len(mail.outbox) == 3
    assert User.objects.count() == len(spellings)  # but they are as many accounts


@pytest.mark.django_db
def test_resets_of_other_spellings_do_not_cost_the_owner_theirs(store: str, outbox: Outbox) -> None:
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
    settings.ACCOUNTS_MAIL_PER_NETWORK = "3/hour"
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
    settings.ACCOUNTS_MAIL_PER_NETWORK = "2/hour"

    for n, peer in enumerate(peers):
        Client(REMOTE_ADDR=peer).post(reverse("resend"), {"email": f"{n}@example.com"})

    assert Message.objects.count() == sent


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["resend", "password_reset", "signup"])
def test_the_page_does_not_tell_that_a_mailbox_has_had_enough(
    page: str, store: str, user: User, outbox: Outbox
) -> None:
    answers = set()
    for _ in range(4):
        for address in ("ann@example.com", "bob@example.com"):
            response = Client().post(reverse(page), SIGN_UP | {"email": address}, follow=True)
            answers.add((str(response.redirect_chain), text_of(response).replace(address, "…")))

    assert len(answers) == 1
    outbox.deliver(after=timedelta(minutes=1))
    assert len(mail.outbox) == (2 if page == "signup" else 1)


@pytest.mark.django_db
def test_each_purpose_has_its_own_limit(store: str) -> None:
    assert [ask(purpose=purpose) for purpose in (Purpose.VERIFY, Purpose.RESET) * 2] == [True, True, False, False]


def everything_in(server: redis.Redis) -> str:
    """Return all keys and values as text."""
    read: dict[bytes, Callable[[Any], Any]] = {
        b"list": lambda key: server.lrange(key, 0, -1),
        b"set": server.smembers,
        b"zset": lambda key: server.zrange(key, 0, -1),
        b"hash": server.hgetall,
        b"string": server.get,
    }
    keys: Any = server.keys("*")
    kinds: Any = [server.type(key) for key in keys]
    return str([(key, read[kind](key)) for key, kind in zip(keys, kinds, strict=True)])


@pytest.mark.django_db(transaction=True)
def test_no_store_contains_an_address(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    def use_everything() -> None:
        for page in ("resend", "password_reset"):
            Client().post(reverse(page), {"email": "secret.ann@hidden.example"})
        for _ in range(6):
            Client().post(reverse("login"), {"username": "secret.ann@hidden.example", "password": "typed-password"})

    use_everything()
    monkeypatch.setattr(throttling.counter, "_try_redis_at", float("inf"))
    use_everything()

    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        stored = everything_in(client)
    assert "LIMITS:" in stored
    hits = str(list(Hit.objects.values()))
    assert Hit.objects.exists()
    for secret in ("secret", "ann@", "hidden", "typed-password", "127.0.0.1"):
        assert secret not in stored.replace("127.0.0.1:", "") + hits


@pytest.mark.django_db
def test_keys_cannot_be_found_by_hashing_addresses(settings: Settings) -> None:
    before = throttling._hashed("mail", "ann@example.com")
    settings.SECRET_KEY = "another" * 10

    assert throttling._hashed("mail", "ann@example.com") != before


@pytest.mark.django_db(transaction=True)
def test_of_fifty_concurrent_hits_five_are_allowed(store: str) -> None:
    limit = parse("5/hour")

    answers, failures = at_once([lambda: throttling.counter.hit(limit, "key")] * 50)

    assert (failures, sorted(answers)) == ([], [False] * 45 + [True] * 5)


@pytest.mark.django_db(transaction=True)
def test_of_fifty_mails_at_once_one_is_sent(store: str) -> None:
    answers, failures = at_once([ask] * 50)

    assert (failures, answers.count(True)) == ([], 1)


@pytest.mark.django_db
def test_the_table_counts_while_redis_is_stopped(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "BREAK", 60)
    assert ask()
    valkey.stop()
    try:
        with capture_logs() as lines:
            assert [timed(ask)[0] for _ in range(3)] == [True, False, False]
    finally:
        valkey.start()
    assert Hit.objects.exists()
    assert [line["event"] for line in lines] == ["Redis away; limits are counted in the database"]

    Hit.objects.all().delete()
    throttling.counter._try_redis_at = 0.0  # the break is over
    assert ask("bob@example.com")
    assert not Hit.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_without_redis_only_the_first_request_waits(valkey: Valkey, how: str) -> None:
    assert throttling.counter.hit(parse("5/hour"), "key")

    if how == "frozen":
        with valkey.frozen():
            waited = [timed(partial(ask, f"{n}@example.com"))[1] for n in range(10)]
    else:
        valkey.stop()
        try:
            waited = [timed(partial(ask, f"{n}@example.com"))[1] for n in range(10)]
        finally:
            valkey.start()

    assert waited[0] < throttling.TIMEOUT + 2  # on a busy machine
    assert sorted(waited[1:])[5] < throttling.TIMEOUT  # the others do not wait for Redis, even on a busy machine


@pytest.mark.django_db
def test_a_process_that_starts_without_redis_waits_no_longer(valkey: Valkey) -> None:
    throttling._redis.cache_clear()
    with valkey.frozen():
        allowed, waited = timed(ask)

    assert allowed
    assert waited < throttling.TIMEOUT + 2  # on a busy machine


@pytest.mark.django_db
def test_old_hits_are_purged(table: None, clock: Any) -> None:
    ask()
    clock.shift(timedelta(days=1, seconds=1))
    ask("bob@example.com")

    kept = Hit.objects.filter(at__gt=time.time() - 1).count()
    assert throttling.purge() > 0
    assert Hit.objects.count() == kept > 0


def timed[Answer](action: Callable[[], Answer]) -> tuple[Answer, float]:
    started = time.perf_counter()
    return action(), time.perf_counter() - started
