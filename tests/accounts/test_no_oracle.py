"""Neither an answer nor its time reveals whether an address has an account."""

import re
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts import moving_window, throttling
from accounts.models import User
from config import settings as project

PASSWORD = "correct horse 9 battery"
PAGES = ["signup", "resend", "password_reset", "login"]
TOKEN = re.compile(r'(?<=csrfmiddlewaretoken" value=")[^"]+')
ACCOUNTS = ["verified", "unverified", "inactive", "staff"]


def make_account(address: str, kind: str) -> User:
    verified = None if kind == "unverified" else timezone.now()
    return User.objects.create_user(
        address,
        "the old password 1",
        name="Ann",
        email_verified_at=verified,
        is_active=kind != "inactive",
        is_staff=kind == "staff",
    )


def ask(page: str, address: str) -> Any:
    """Post an address from a new browser."""
    data = {"email": address, "username": address, "password": PASSWORD, "password1": PASSWORD, "password2": PASSWORD}
    return Client().post(reverse(page), data)


def seen(page: str, address: str) -> dict[str, Any]:
    """Return everything that a client can see."""
    response = ask(page, address)
    body = response.content.decode()
    if response.status_code == 302:
        again = Client()
        again.cookies = response.cookies
        body += again.get(response["Location"]).content.decode()
    cookies = {
        name: sorted((key, value) for key, value in morsel.items() if key != "expires")
        for name, morsel in response.cookies.items()
    }
    return {
        "status": response.status_code,
        "headers": sorted((name, value) for name, value in response.headers.items() if name != "Expires"),
        "cookies": cookies,
        "body": TOKEN.sub("", body.replace(address, "…")),
    }


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ACCOUNTS)
@pytest.mark.parametrize("page", PAGES)
def test_a_known_address_is_answered_like_an_unknown_one(page: str, kind: str) -> None:
    make_account("ann@example.com", kind)

    for _ in range(6):  # beyond the limits too
        assert seen(page, "ann@example.com") == seen(page, "bob@example.com")


def statements(page: str, address: str) -> list[str]:
    """Return verb and table of each statement."""
    with CaptureQueriesContext(connection) as captured:
        ask(page, address)
    return [" ".join(query["sql"].split()[:3]) for query in captured]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ACCOUNTS)
@pytest.mark.parametrize("page", PAGES)
def test_a_known_address_costs_the_same_statements(page: str, kind: str) -> None:
    make_account("ann@example.com", kind)

    for _ in range(6):
        known, unknown = statements(page, "ann@example.com"), statements(page, "bob@example.com")
        assert len(known) == len(unknown) > 0, (known, unknown)


ROUNDS = 15
TRIES = 4


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count each answer with its mail: there known and unknown addresses could differ."""
    monkeypatch.setattr(throttling, "may_ask", lambda _: True)
    monkeypatch.setattr(moving_window, "allows", lambda _: True)


@pytest.fixture
def real_hasher(settings: Settings) -> None:
    settings.PASSWORD_HASHERS = project.PASSWORD_HASHERS


@pytest.mark.long  # needs a quiet machine; the test above compares the statements
@pytest.mark.timeout(240)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("page", PAGES)
def test_a_known_address_takes_the_same_time(page: str, no_limits: None, real_hasher: None) -> None:
    known = [f"known-{n:03}@example.com" for n in range(ROUNDS * TRIES + 2)]
    unknown = [f"other-{n:03}@example.com" for n in range(ROUNDS * TRIES + 2)]
    template = make_account("template@example.com", "verified")
    User.objects.bulk_create(
        User(email=address, password=template.password, email_verified_at=timezone.now()) for address in known
    )
    for address in (known.pop(), unknown.pop(), known.pop(), unknown.pop()):
        ask(page, address)  # warm up

    ratios = []
    for _ in range(TRIES):  # the machine may be busy; a real difference would appear each time
        times: tuple[list[float], list[float]] = [], []
        for n in range(ROUNDS):
            pair = [(known.pop(), times[0]), (unknown.pop(), times[1])]
            for address, spent in pair if n % 2 else reversed(pair):
                spent.append(duration(partial(ask, page, address)))
        medians = median(times[0]), median(times[1])
        ratios.append(medians[0] / medians[1])
        print(f"{page}: known {medians[0] * 1000:.1f} ms, unknown {medians[1] * 1000:.1f} ms")
        if abs(ratios[-1] - 1) < 0.1:
            return
    pytest.fail(f"known / unknown: {ratios}")


def duration(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
