"""Kinds of e-mail that only the tests know."""

import dataclasses
from datetime import datetime
from typing import Any, ClassVar

from django.utils import timezone

from accounts.models import User
from mailer.email import Email, Recipient, WhenUncertain


class Plain(Email):
    """About a user, with a value."""

    template: ClassVar = "email/test"

    account: User
    sent_by: str = "a test"

    def recipient(self) -> Recipient:
        return Recipient(self.account.email, name=self.account.name, language=self.account.language)

    def user(self) -> User:
        return self.account

    def is_wanted(self) -> bool:
        return self.account.is_active


class Receipt(Plain):
    """A copy of it would do harm."""

    when_uncertain: ClassVar = WhenUncertain.HOLD


class Broken(Plain):
    """Its template does not exist."""

    template: ClassVar = "email/no_such_folder"


class Raising(Plain):
    """Its context cannot be computed."""

    def context(self) -> dict[str, Any]:
        return {"ratio": 1 // 0}


class Fleeting(Plain):
    """Of no use from the start."""

    def expires_at(self) -> datetime:
        return timezone.now()


class Shared(Plain):
    """To several people."""

    copies: list[str] = dataclasses.field(default_factory=list)
    hidden: list[str] = dataclasses.field(default_factory=list)

    def cc(self) -> list[Recipient]:
        return [Recipient(address, name="A colleague") for address in self.copies]

    def bcc(self) -> list[Recipient]:
        return [Recipient(address) for address in self.hidden]
