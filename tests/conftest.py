"""Fixtures for all tests."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.core.management.color import no_style
from django.db import connection
from django.test import TransactionTestCase
from django.utils import translation
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import broker
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.slowness import Slowness
from mailer.models import Role
from mailer.transports import connections
from tests import environment, migrated
from tests import history as histories
from tests.history import Change
from tests.mailer import kinds
from tests.servers import Postgres, Valkey
from tests.smtp_sink import Sink

hypothesis.settings.register_profile("postcommit", deadline=None)  # a busy machine takes its time
hypothesis.settings.load_profile("postcommit")

OUTBOX = {"BACKEND": "mailer.backend.OutboxBackend"}
"""The entry in MAILERS that Django's own mail goes through."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes of `-n auto`: many tests wait for others, so there are more of them than cores."""
    return min(2 * (os.cpu_count() or 1), 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules whose tests may take long: otherwise the last process would be busy alone."""
    patience: dict[Path, float] = {}
    for item in items:
        patience[item.path] = max(patience.get(item.path, 0), _patience(item))
    items.sort(key=lambda item: -patience[item.path])


def _patience(item: pytest.Item) -> float:
    """Return the seconds of `pytest.mark.timeout`. 0 means that there is no limit."""
    mark = item.get_closest_marker("timeout")
    return (mark.args[0] or math.inf) if mark else 0


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """The PostgreSQL and the Valkey of this test process."""
    migrated.copy_to(environment.postgres.data)
    environment.postgres.start()
    environment.valkey.start()
    yield
    environment.valkey.stop()
    environment.postgres.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(servers: None) -> None:
    """Override pytest-django's hook: the server must run before the test database is created."""


@pytest.fixture(scope="session")
def django_db_keepdb() -> bool:
    """Override pytest-django's option: the database exists, with all migrations."""
    return True


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> Iterator[None]:
    """After a test that commits, empty the tables, but keep what `migrate` fills in.

    Django would empty those, too, and fill them in again by its signal post_migrate, which takes longer than such a test.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda test: _empty_tables())
        yield


def _empty_tables() -> None:
    every = connection.introspection.django_table_names(only_existing=True, include_views=False)
    emptied = [table for table in every if table not in ("django_content_type", "auth_permission")]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), emptied))


@pytest.fixture(scope="session")
def postgres(servers: None) -> Postgres:
    return environment.postgres


@pytest.fixture(scope="session")
def valkey(servers: None) -> Valkey:
    return environment.valkey


@pytest.fixture(autouse=True)
def quick_passwords(settings: Settings) -> None:
    """A good password hash would take as long as the rest of a test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def no_memories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reset the state that a process keeps between messages."""
    monkeypatch.setattr(broker, "breaker", broker.CircuitBreaker())
    monkeypatch.setattr(broker, "TIMEOUT", 5.0)  # the machine may be busy
    monkeypatch.setattr(outbox, "slowness", Slowness())
    heartbeat.renew()
    heartbeat.role = Role.WORKER  # a command leaves its own
    translation.activate("en")  # a request in Thai leaves its thread in Thai
    yield
    connections.close_all()
    connections._pools.clear()


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A mail server."""
    with Sink() as sink:
        yield sink


@pytest.fixture
def through(settings: Settings) -> Callable[[str], None]:
    """Send through this EMAIL_URL instead of Django's in-memory mailbox; mail of Django goes through the outbox."""

    def use(url: str) -> None:
        settings.MAILERS = {"default": OUTBOX, "transport": email_url(url)}

    return use


@pytest.fixture
def smtp(sink: Sink, through: Callable[[str], None]) -> Sink:
    """The mail server that the transport uses."""
    through(sink.url)
    return sink


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(email: str = "ann@example.com", **fields: Any) -> User:
        return User.objects.create_user(email, **fields)

    return make


@pytest.fixture
def user(make_user: Callable[..., User]) -> User:
    return make_user(name="Ann")


@pytest.fixture
def showcase_templates(settings: Settings) -> None:
    """Add the template folders of the tests' kinds of e-mail."""
    engine = settings.TEMPLATES[0]
    settings.TEMPLATES = [engine | {"DIRS": [*engine["DIRS"], kinds.TEMPLATES]}]


@pytest.fixture
def history(db: None) -> Iterator[Callable[[], list[Change]]]:
    """Write down every change of messages and attempts from here on. Returns the function that reads them."""
    with connection.cursor() as cursor:
        cursor.execute(histories.INSTALL)

    def read() -> list[Change]:
        with connection.cursor() as cursor:
            return histories.read(cursor)

    yield read
    if not connection.in_atomic_block:  # otherwise it is rolled back
        with connection.cursor() as cursor:
            cursor.execute(histories.REMOVE)
