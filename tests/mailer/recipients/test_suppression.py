"""Suppression of addresses."""

import pytest

from accounts.models import User
from mailer import outbox
from mailer.models import Suppression
from mailer.recipients import suppression
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db


def test_an_address_has_one_suppression_in_any_case(user: User) -> None:
    message = outbox.enqueue(Plain(user))

    suppression.suppress("Ann@Example.com", "550 5.1.1 unknown", message)
    suppression.suppress("ann@example.com", "550 5.1.1 unknown", message)

    assert list(Suppression.objects.values_list("address", flat=True)) == ["ann@example.com"]
