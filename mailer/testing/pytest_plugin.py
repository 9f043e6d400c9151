"""The fixture `outbox` for the tests of a project.

Set `pytest_plugins = ["mailer.testing.pytest_plugin"]` in conftest.py, or pass `-p mailer.testing.pytest_plugin` to pytest.

    def test_a_sign_up_asks_for_the_address(outbox, client):
        client.post("/accounts/signup/", {…})

        message = outbox.only(VerifyAddress)
        assert outbox.mail(message).links[0].startswith("https://example.com/accounts/verify/")
        outbox.deliver(after=timedelta(seconds=5))
        assert mail.outbox[0].to == ["ann@example.com"]
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mailer.testing.outbox import Outbox


@pytest.fixture
def outbox(db: None) -> "Iterator[Outbox]":
    """Give access to all enqueued messages, committed or not. `send_mail()` is enqueued too, as it is outside of tests."""
    from django.conf import settings  # with `-p` pytest imports this module before Django is set up
    from django.test import override_settings

    from mailer.testing.outbox import Outbox

    with override_settings(MAILERS=settings.MAILERS | {"default": {"BACKEND": "mailer.backend.OutboxBackend"}}):
        yield Outbox()
