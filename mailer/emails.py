"""The test e-mail for operators."""

from collections.abc import Mapping
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

    def recipient(self) -> Recipient:
        return Recipient(self.address)

    def context(self) -> Mapping[str, Any]:
        return {"sent_at": timezone.now()}

    def expires_at(self) -> datetime:
        return timezone.now() + timedelta(hours=1)

    @classmethod
    def sample(cls) -> Self:
        return cls("operator@example.com", "a colleague")
