"""Migrate a database of an old release while its processes still write."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from accounts.models import EmailVerification, User
from accounts.sessions import Session, SessionStore, hash_key
from mailer.models import Message, State

BEFORE = [("accounts", "0002_email_verification"), ("mailer", "0001_outbox")]


def migrate(targets: list[tuple[str, str]]) -> Any:
    """Return the models in the state of those migrations."""
    executor = MigrationExecutor(connection)
    executor.migrate(targets)
    return executor.loader.project_state(targets).apps


def newest() -> list[tuple[str, str]]:
    return [
        node for node in MigrationExecutor(connection).loader.graph.leaf_nodes() if node[0] in ("accounts", "mailer")
    ]


@pytest.fixture
def before(transactional_db: None) -> Iterator[Any]:
    yield migrate(BEFORE)
    migrate(newest())


def message(models: Any, state: State, number: int, user: Any) -> Any:
    return models.get_model("mailer", "Message").objects.create(
        kind="accounts.VerifyAddress",
        user=user,
        recipient="ann@example.com",
        message_id_header=f"<{number}@example.com>",
        state=state,
        claimed_until=timezone.now() if state is State.SENDING else None,
    )


def test_migrations_keep_all_rows_and_mark_verified_users(before: Any) -> None:
    old_user = before.get_model("accounts", "User")
    verified = old_user.objects.create(email="ann@example.com", password="x", email_verified_at=timezone.now())
    waiting = old_user.objects.create(email="bob@example.com", password="x")
    open_, used = (
        before.get_model("accounts", "EmailVerification").objects.create(user=user, address=user.email, used_at=used_at)
        for user, used_at in ((waiting, None), (verified, timezone.now()))
    )
    old = {state: message(before, state, number, verified).pk for number, state in enumerate(State)}
    attempt = before.get_model("mailer", "DeliveryAttempt").objects.create(
        message_id=old[State.SENT], number=1, transport="transport", outcome="accepted"
    )

    migrate(newest())

    assert list(User.objects.order_by("email").values_list("pk", "was_verified", "time_zone", "is_active")) == [
        (verified.pk, True, "", True),
        (waiting.pk, False, "", True),
    ]
    assert EmailVerification.objects.get(pk=open_.pk).is_open
    assert EmailVerification.objects.get(pk=used.pk).secret == used.secret
    assert {State(row.state): row.pk for row in Message.objects.all()} == old
    assert {(row.user_id, str(row.answers), row.resent_from_id) for row in Message.objects.all()} == {
        (verified.pk, "{}", None)
    }
    assert Message.objects.get(pk=old[State.SENT]).delivery_attempts.get().pk == attempt.pk


def test_a_process_of_the_previous_release_can_still_write(before: Any) -> None:
    migrate(newest())

    user = before.get_model("accounts", "User").objects.create(email="ann@example.com", password="x")
    before.get_model("accounts", "EmailVerification").objects.create(user=user, address=user.email)
    message(before, State.QUEUED, 1, user)
    user.name = "Ann"
    user.save()
    before.get_model("mailer", "TransportState").objects.create(alias="transport")

    migrated = User.objects.get()
    assert (migrated.name, migrated.time_zone, migrated.was_verified) == ("Ann", "", False)
    assert Message.objects.get().answers == {}
    assert migrated.email_verifications.get().expires_at > timezone.now() + timedelta(hours=23)


def test_the_key_of_a_session_is_hashed_and_its_browser_stays_logged_in(transactional_db: None) -> None:
    models = migrate([("accounts", "0006_plain_words")])
    models.get_model("accounts", "Session").objects.create(
        session_key="a" * 32, session_data="x", expire_date=timezone.now() + timedelta(days=1)
    )
    migrate(newest())

    assert Session.objects.get().session_key == hash_key("a" * 32)
    assert SessionStore("a" * 32).exists("a" * 32)
