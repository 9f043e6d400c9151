"""The test e-mail for operators."""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from django.utils import timezone

from mailer.email import CRITICAL, Email, Recipient


class TestEmail(Email):
    """Shows that sending works: it takes the same outbox, queue, worker and transport as every other mail."""

    __test__ = False  # not a test class for pytest

    template: ClassVar = "email/test"
    queue: ClassVar = CRITICAL

    address: str
    sent_by: str
    asked_at: str = field(default_factory=lambda: timezone.now().isoformat(), kw_only=True)
    """When it was asked for, in ISO 8601: it may be built much later."""

    def recipient(self) -> Recipient:
        return Recipient(self.address)

    def context(self) -> Mapping[str, Any]:
        return {"moment": datetime.fromisoformat(self.asked_at)}

    def expires_at(self) -> datetime:
        return timezone.now() + timedelta(hours=1)

    @classmethod
    def sample(cls) -> Self:
        return cls("operator@example.com", "a colleague")
