"""Fixtures of the tests of accounts."""

import pytest

from mailer import outbox


@pytest.fixture(autouse=True)
def mail_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker runs in these tests, so every page would say that mail is slow."""
    monkeypatch.setattr(outbox, "is_slow", lambda: False)
