"""Argon2 for new passwords; the hashes from before are replaced when their owners log in."""

import statistics
import time

import pytest
from django.contrib.auth.hashers import get_hashers, identify_hasher, make_password
from pytest_django import Settings

from accounts.models import User
from config import settings as project
from tests.accounts.steps import ANN, PASSWORD, is_in, log_in, member

pytestmark = pytest.mark.django_db

FROM_BEFORE = "pbkdf2_sha256$1500000$5UJcpKs9BuTKZWDNgVAG42$ia6A/b7vC66dDF3GUqzhP4VKJIJWfmAQKx+0v5VJXbQ="
"""What this project stored for PASSWORD before it had Argon2."""


@pytest.fixture(autouse=True)
def real_hashers(quick_passwords: None, settings: Settings) -> None:
    settings.PASSWORD_HASHERS = project.PASSWORD_HASHERS


def test_a_new_password_is_hashed_with_argon2() -> None:
    assert identify_hasher(member().password).algorithm == "argon2"


def test_a_hash_from_before_logs_in_once_more_and_is_replaced() -> None:
    user = member(password="to be replaced 1")
    User.objects.update(password=FROM_BEFORE)

    log_in(ANN, "a wrong password 1")
    assert User.objects.get().password == FROM_BEFORE

    browser = log_in()
    user.refresh_from_db()
    assert identify_hasher(user.password).algorithm == "argon2"
    assert user.check_password(PASSWORD)
    assert is_in(browser)  # the new hash does not end the session
    assert is_in(log_in())


def test_an_unknown_address_costs_one_argon2_hash_as_a_known_one_does() -> None:
    """Equal work, in CPU time, which other processes do not change. Half of a hash would be seen."""
    member()
    assert [hasher.algorithm for hasher in get_hashers()] == ["argon2", "pbkdf2_sha256"]
    assert make_password("any").startswith("argon2$argon2id$")
    spent: dict[str, list[float]] = {ANN: [], "unknown@example.com": []}
    for _ in range(3):
        for address, times in spent.items():
            began = time.process_time()
            assert not is_in(log_in(address, "a wrong password 1"))
            times.append(time.process_time() - began)
    known, unknown = map(statistics.median, spent.values())
    assert known / unknown == pytest.approx(1, abs=0.35)
