"""What the tests of the mail's path share."""

from collections.abc import Iterator

import pytest
import redis

from tests.servers import Valkey


@pytest.fixture
def broker(valkey: Valkey) -> Iterator[redis.Redis]:
    """The broker, empty before and after."""
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.flushall()
        yield client
        client.flushall()
