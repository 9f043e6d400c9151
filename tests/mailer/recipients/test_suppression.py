"""Suppression of addresses."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.db import connection
from django.db.models import Value

from accounts.models import User
from mailer import outbox
from mailer.models import Cause, Suppression
from mailer.recipients import suppression
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db


def test_an_address_has_one_suppression_in_any_case(user: User) -> None:
    message = outbox.enqueue(Plain(user))

    suppression.suppress("Ann@Example.com", "550 5.1.1 unknown", message)
    suppression.suppress("ann@example.com", "550 5.1.1 unknown", message)

    assert list(Suppression.objects.values_list("address", flat=True)) == ["ann@example.com"]


def test_existing_rows_are_rewritten_to_the_canonical_form_and_merged() -> None:
    stored = {
        "ann@bücher.example": "ann@xn--bcher-kva.example",
        "ann@xn--bcher-kva.example": "ann@xn--bcher-kva.example",
        "Ann@BÜCHER.example.": "ann@xn--bcher-kva.example",
        "bob@straße.example": "bob@xn--strae-oqa.example",
        "bob@strasse.example": "bob@strasse.example",
        '"carl"@example.com': "carl@example.com",
        "no address": '"no address"',
        "dora@i❤.example": "dora@i❤.example",
    }
    for number, address in enumerate(stored):
        for stream in "", "tips":
            row = Suppression.objects.create(address=f"{number}@example.com", stream=stream, reason="550")
            Suppression.objects.filter(pk=row.pk).update(address=Value(address))  # as an earlier release wrote it

    migration = import_module("mailer.migrations.0006_canonical_suppressions")
    for _time in range(2):
        migration.rewrite(apps, SimpleNamespace(connection=connection))

        for stream in "", "tips":
            rows = Suppression.objects.filter(stream=stream).values_list("address", flat=True)
            assert sorted(rows) == sorted(set(stored.values()))


@pytest.mark.parametrize("address", ["ann@example.com", "o'hara+x_y@a-b.example", "ann@xn--bcher-kva.example"])
def test_the_migration_reads_no_row_that_is_canonical_already(address: str) -> None:
    Suppression.objects.create(address=address, reason="550")

    migration = import_module("mailer.migrations.0006_canonical_suppressions")
    assert Suppression.objects.filter(address__regex=migration.IS_CANONICAL).count() == 1


@pytest.mark.parametrize("cause", [Cause.COMPLAINT, Cause.OPERATOR])
def test_a_mail_that_arrives_lifts_no_complaint_that_came_after_a_bounce(cause: Cause) -> None:
    suppression.suppress("ann@example.com", "552 5.2.2 full", cause=Cause.BOUNCES, source="bounce mail")
    suppression.suppress("Ann@Example.com", "spam", cause=cause, source="Postmark")
    suppression.suppress("ann@example.com", "550 5.1.1", cause=Cause.BOUNCE)
    suppression.has_arrived("ann@example.com")
    row = Suppression.objects.get()
    assert (row.cause, row.reason, row.source) == (cause, "spam", "Postmark")
