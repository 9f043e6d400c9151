"""What every test may ask for."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.utils import translation
from pytest_django import Settings

from accounts.models import User
from config import email_url
from mailer.delivery import broker
from mailer.transports import transmit
from tests import environment
from tests.mailer import kinds
from tests.servers import Postgres, Valkey
from tests.smtp_sink import Sink

OUTBOX = {"BACKEND": "mailer.backend.OutboxBackend"}
"""The entry in MAILERS that Django's own mail goes through."""


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """The PostgreSQL and the Valkey of this test process."""
    environment.postgres.start()
    environment.valkey.start()
    yield
    environment.valkey.stop()
    environment.postgres.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(servers: None) -> None:
    """pytest-django's hook before the test database is made: the server must be there by then."""


@pytest.fixture(scope="session")
def postgres(servers: None) -> Postgres:
    return environment.postgres


@pytest.fixture(scope="session")
def valkey(servers: None) -> Valkey:
    return environment.valkey


@pytest.fixture(autouse=True)
def quick_passwords(settings: Settings) -> None:
    """A good password hash takes as long as all the rest of a test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def no_memories(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a process remembers between messages must not leak from one test to the next one."""
    monkeypatch.setattr(broker, "breaker", broker.CircuitBreaker())
    translation.activate("en")  # a page that was asked for in Thai leaves its thread in Thai
    yield
    for alias in list(transmit._backends()):
        transmit.close(alias)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A mail server, and the way to it."""
    with Sink() as sink:
        yield sink


@pytest.fixture
def through(settings: Settings) -> Callable[[str], None]:
    """Sends through this EMAIL_URL instead of Django's in-memory mailbox, and what Django sends through the outbox."""

    def use(url: str) -> None:
        settings.MAILERS = {"default": OUTBOX, "transport": email_url.parse(url)}

    return use


@pytest.fixture
def smtp(sink: Sink, through: Callable[[str], None]) -> Sink:
    """The mail server, and the transport leads to it."""
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
    """The template folders of those kinds of e-mail that only the tests know, beside those that ship."""
    engine = settings.TEMPLATES[0]
    settings.TEMPLATES = [engine | {"DIRS": [*engine["DIRS"], kinds.TEMPLATES]}]
