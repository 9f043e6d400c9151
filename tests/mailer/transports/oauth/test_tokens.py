"""Tokens are shared by threads, renewed early, and not asked for in vain."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from mailer.transports.oauth import tokens as module
from mailer.transports.oauth.token import NoToken, Token
from mailer.transports.oauth.tokens import AGAIN, EARLY, LONGEST_PAUSE, Tokens, tokens
from tests.mailer.transports.oauth.servers import Endpoint

HOUR = timedelta(hours=1)
AWAY = NoToken("away")


class Provider:
    """It gives `token-1`, `token-2`, …, each valid for an hour, unless `answers` has something else."""

    def __init__(self) -> None:
        self.answers: deque[NoToken | tuple[str, timedelta]] = deque()
        self.fetched = 0
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def fetch(self) -> tuple[str, timedelta]:
        self.fetched += 1
        self.is_asked.set()
        assert self.may_answer.wait(5)
        answer = self.answers.popleft() if self.answers else (f"token-{self.fetched}", HOUR)
        if isinstance(answer, NoToken):
            raise answer
        return answer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, time: timedelta) -> None:
        self.now += time.total_seconds()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def provider() -> Provider:
    return Provider()


def test_a_token_is_kept_until_shortly_before_it_expires(provider: Provider, clock: Clock) -> None:
    tokens = Tokens(provider)

    assert [tokens.current(), tokens.current()] == ["token-1", "token-1"]
    clock.forward(HOUR - EARLY - timedelta(seconds=1))
    assert tokens.current() == "token-1"
    clock.forward(timedelta(seconds=2))
    assert tokens.current() == "token-2"


def test_a_token_of_a_short_life_is_kept_for_half_of_it(provider: Provider, clock: Clock) -> None:
    provider.answers.append(("short", timedelta(seconds=60)))
    tokens = Tokens(provider)

    assert [tokens.current(), tokens.current()] == ["short", "short"]
    clock.forward(timedelta(seconds=31))
    assert tokens.current() == "token-2"


def test_an_old_token_is_used_while_the_endpoint_is_away(provider: Provider, clock: Clock) -> None:
    tokens = Tokens(provider)
    tokens.current()
    provider.answers.extend([AWAY, AWAY])

    clock.forward(HOUR - EARLY)
    assert [tokens.current(), tokens.current()] == ["token-1", "token-1"]
    assert provider.fetched == 2
    clock.forward(EARLY)
    with pytest.raises(NoToken, match="away"):
        tokens.current()
    clock.forward(AGAIN)
    assert tokens.current() == "token-4"


@pytest.mark.parametrize(
    ("asked", "pause"),
    [(None, AGAIN), (timedelta(0), AGAIN), (timedelta(seconds=90), timedelta(seconds=90)), (HOUR, LONGEST_PAUSE)],
)
def test_a_failure_is_repeated_to_all_until_its_pause_is_over(
    asked: timedelta | None, pause: timedelta, provider: Provider, clock: Clock
) -> None:
    provider.answers.append(NoToken("wrong", misconfigured=True, pause=asked))
    tokens = Tokens(provider)

    for _ in range(3):
        with pytest.raises(NoToken, match="wrong") as caught:
            tokens.current()
        assert caught.value.misconfigured
        clock.forward(pause / 3 - timedelta(seconds=0.1))
    assert provider.fetched == 1
    clock.forward(timedelta(seconds=1))
    assert tokens.current() == "token-2"


def test_a_refused_token_is_not_given_again(provider: Provider) -> None:
    tokens = Tokens(provider)
    first = tokens.current()

    assert tokens.current(refused=first) == "token-2"
    assert tokens.current(refused=first) == "token-2"  # another thread has replaced it
    provider.answers.append(AWAY)
    with pytest.raises(NoToken):
        tokens.current(refused=Token("token-2"))


def test_an_endpoint_that_gives_the_same_token_again_is_believed(provider: Provider) -> None:
    provider.answers.extend([("same", HOUR), ("same", HOUR)])
    tokens = Tokens(provider)

    assert tokens.current(refused=tokens.current()) == "same"


def test_threads_fetch_one_token(provider: Provider) -> None:
    tokens = Tokens(provider)
    provider.may_answer.clear()

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(tokens.current) for _ in range(8)]
        provider.may_answer.set()
        assert {each.result(5) for each in asked} == {"token-1"}

    assert provider.fetched == 1


def test_threads_do_not_wait_for_a_renewal(provider: Provider, clock: Clock) -> None:
    tokens = Tokens(provider)
    tokens.current()
    clock.forward(HOUR - EARLY)
    provider.may_answer.clear()
    provider.is_asked.clear()

    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(tokens.current)
        assert provider.is_asked.wait(5)
        assert tokens.current() == "token-1"
        provider.may_answer.set()
        assert renewing.result(5) == "token-2"


def test_connections_to_one_account_have_the_same_tokens(google: dict[str, str]) -> None:
    options = {"provider": google.pop("oauth"), **google}

    assert tokens("a@shop.example", options) is tokens("a@shop.example", dict(options))
    assert tokens("b@shop.example", options) is not tokens("a@shop.example", options)


def test_a_new_refresh_token_is_used_from_then_on(google: dict[str, str], endpoint: Endpoint) -> None:
    endpoint.more = {"expires_in": 0, "refresh_token": "the-next-one"}
    of_user = tokens("a@shop.example", {"provider": google.pop("oauth"), **google})

    of_user.current()
    of_user.current()

    assert [form["refresh_token"] for form in endpoint.asked] == [google["refresh_token"], "the-next-one"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_process_does_not_wait_for_a_thread_of_its_parent(google: dict[str, str]) -> None:
    tokens("a@shop.example", {"provider": google.pop("oauth"), **google})

    assert in_child(lambda: module._tokens == {})


def in_child(check: Callable[[], bool]) -> bool:
    pid = os.fork()
    if not pid:
        os._exit(0 if check() else 1)
    return os.waitpid(pid, 0)[1] == 0
