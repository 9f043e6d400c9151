"""Fixtures of the tests of accounts."""

import pytest
import redis

from accounts import throttling
from mailer import outbox
from tests.servers import Valkey


@pytest.fixture(autouse=True)
def mail_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker runs in these tests, so every page would say that mail is slow."""
    monkeypatch.setattr(outbox, "is_slow", lambda: False)


@pytest.fixture(autouse=True)
def nothing_counted_yet(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits would count across tests otherwise."""
    monkeypatch.setattr(throttling, "counter", throttling.Counter())
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.flushall()
