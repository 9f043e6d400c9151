"""The retention of settled messages: that of their kind, under all its names, or that of the settings."""

from datetime import timedelta
from threading import Event
from typing import ClassVar

import pytest
from django.db import transaction
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import retention
from mailer.models import Message, State
from tests.at_once import at_once
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db


class Newsflash(Plain):
    """Kept for a week."""

    retention: ClassVar = timedelta(days=7)
    aliases: ClassVar = ("tests.BreakingNews", "shop.Newsflash")


class Weather(Newsflash):
    """It inherits the retention, not the names."""


class Invoice(Plain):
    """Kept for ten years."""

    retention: ClassVar = timedelta(days=3653)
    aliases: ClassVar = ("tests.Bill",)


def settled(user: User, kind: type[Plain], days: int, *, name: str = "", state: State = State.SENT) -> int:
    """Enqueue a message that was settled `days` ago. Return its primary key."""
    message = outbox.enqueue(kind(user))
    moment = timezone.now() - timedelta(days=days)
    Message.objects.filter(pk=message.pk).update(kind=name or kind.kind, state=state, settled_at=moment)
    return message.pk


def test_each_kind_has_its_own_retention(user: User, settings: Settings) -> None:
    settings.POSTCOMMIT = settings.POSTCOMMIT | {"RETENTION_DAYS": "30"}
    kept = {
        settled(user, Newsflash, 6),
        settled(user, Newsflash, 6, name="tests.BreakingNews"),
        settled(user, Weather, 6),
        settled(user, Plain, 29),
        settled(user, Plain, 29, name="gone.Kind"),
        settled(user, Invoice, 3000),
        settled(user, Invoice, 3000, name="tests.Bill"),
    }
    for days, kind, name in (
        (8, Newsflash, ""),
        (8, Newsflash, "tests.BreakingNews"),
        (8, Newsflash, "shop.Newsflash"),
        (8, Weather, ""),
        (31, Plain, ""),
        (31, Plain, "gone.Kind"),
        (4000, Invoice, ""),
    ):
        settled(user, kind, days, name=name)

    assert retention.purge() == 7
    assert set(Message.objects.values_list("pk", flat=True)) == kept
    assert retention.purge() == 0


@pytest.mark.parametrize("state", [State.SENT, State.FAILED, State.CANCELLED, State.EXPIRED, State.SUPPRESSED])
def test_every_final_state_is_purged(user: User, state: State) -> None:
    settled(user, Newsflash, 8, state=state)

    assert retention.purge() == 1


def test_an_old_unsettled_message_is_kept(user: User) -> None:
    message = outbox.enqueue(Newsflash(user))
    Message.objects.filter(pk=message.pk).update(created_at=timezone.now() - timedelta(days=999), state=State.HELD)

    assert retention.purge() == 0


def test_more_than_one_batch_is_purged(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        settled(user, Newsflash, 8)

    assert retention.purge() == 5


@pytest.mark.django_db(transaction=True)
def test_a_message_that_is_retried_during_the_purge_is_kept(user: User) -> None:
    """A person's transaction is open when the purge reaches the row, and commits a moment later."""
    pk = settled(user, Newsflash, 8, state=State.FAILED)
    asked, purged = Event(), Event()

    def ask() -> None:
        with transaction.atomic():
            assert outbox.retry(Message.objects.all(), reason="try again") == 1
            asked.set()
            purged.wait(0.5)

    def purge() -> None:
        asked.wait(5)
        retention.purge()
        purged.set()

    _, failures = at_once([ask, purge])

    assert (failures, Message.objects.get(pk=pk).state) == ([], State.QUEUED)
