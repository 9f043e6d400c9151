"""Fixtures of the mailer's tests."""

import os
from collections.abc import Iterator

import pytest
import redis

from tests.servers import Valkey

collect_ignore = [] if "DJANGO_SOURCE" in os.environ else ["test_djangos_own_tests.py"]
"""Django's own tests are not installed with Django; `make conformance` downloads them."""


@pytest.fixture
def broker(valkey: Valkey) -> Iterator[redis.Redis]:
    """The broker, empty before and after."""
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.flushall()
        yield client
        client.flushall()
