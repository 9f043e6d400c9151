"""Kinds of e-mail for tests."""

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from django.utils import timezone

from accounts.models import User
from mailer.email import BULK, Email, Recipient, Stream, WhenUncertain

TEMPLATES = Path(__file__).parent / "templates"
"""The template folders of these kinds; see the fixture `showcase_templates`."""


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


class Bulletin(Plain):
    """To many recipients, in bulk."""

    queue: ClassVar = BULK


class Newsletter(Bulletin):
    """To those who did not unsubscribe from it."""

    stream: ClassVar = Stream("news", "News")


class Broken(Plain):
    """Its template does not exist."""

    template: ClassVar = "email/no_such_folder"


class Raising(Plain):
    """Its context cannot be computed."""

    def context(self) -> dict[str, Any]:
        return {"ratio": 1 // 0}


class Fleeting(Plain):
    """It has expired from the start."""

    def expires_at(self) -> datetime:
        return timezone.now()


class Shared(Plain):
    """For several recipients."""

    copies: list[str] = dataclasses.field(default_factory=list)
    hidden: list[str] = dataclasses.field(default_factory=list)

    def cc(self) -> list[Recipient]:
        return [Recipient(address, name="A colleague") for address in self.copies]

    def bcc(self) -> list[Recipient]:
        return [Recipient(address) for address in self.hidden]


class Showcase(Email):
    """An order with every part of the layout."""

    template: ClassVar = "showcase"

    name: str = "Ann Example"
    remark: str = "Please ring twice.\nThe dog is friendly: <b>really</b> & truly."
    foreign: str = "השליח יגיע מחר בבוקר, ויצלצל פעמיים."
    link: str = "https://shop.example/orders/4711?from=mail&step=1"

    def recipient(self) -> Recipient:
        return Recipient("ann@example.com", name=self.name)

    def context(self) -> dict[str, Any]:
        return {
            "head": ["Article", "Pieces", "Amount"],
            "rows": [
                ["Coffee, ground, 500 g", "2", "23.80"],
                ["กาแฟเย็นกระป๋อง", "12", "14.40"],
                [self.remark, "1", "1,250.00"],
            ],
            "total": ["Total", "", "1,288.20"],
            "code": "493 021",
            "program": 'def greet(name):\n    return f"Hello, {name} & all"',
            "src": "cid:parcel",
            "alt": "A parcel on a doorstep",
        }

    @classmethod
    def sample(cls) -> Self:
        return cls()
