"""Fixtures of the tests of accounts."""

import pytest
import redis

from accounts import throttling
from tests.servers import Valkey


@pytest.fixture(autouse=True)
def nothing_counted_yet(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits would count across tests otherwise."""
    monkeypatch.setattr(throttling, "counter", throttling.Counter())
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.flushall()
