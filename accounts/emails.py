"""The e-mails of this app."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from django.conf import settings
from django.urls import reverse

from accounts import verification as verifying
from accounts.models import EmailVerification, User
from mailer.email import Email, Recipient
from mailer.models import Queue


class VerifyAddress(Email):
    """Asks the owner of an address to confirm it."""

    template: ClassVar = "email/verify_address"
    queue: ClassVar = Queue.CRITICAL

    verification: EmailVerification

    def recipient(self) -> Recipient:
        user = self.verification.user
        return Recipient(self.verification.address, name=user.name, language=user.language)

    def user(self) -> User:
        return self.verification.user

    def context(self) -> Mapping[str, Any]:
        return {"link": verifying.url_of(self.verification), "expires_at": self.verification.expires_at}

    def is_wanted(self) -> bool:
        return self.verification.is_open and not self.verification.user.is_verified

    def expires_at(self) -> datetime:
        return self.verification.expires_at

    @classmethod
    def sample(cls) -> Self:
        user = User(pk=1, email="ann@example.com", name="Ann Example")
        return cls(EmailVerification(user=user, address=user.email))


class AccountExists(Email):
    """Tells the owner of an account that somebody tried to sign up with its address."""

    template: ClassVar = "email/account_exists"

    account: User

    def recipient(self) -> Recipient:
        return Recipient(self.account.email, name=self.account.name, language=self.account.language)

    def user(self) -> User:
        return self.account

    def context(self) -> Mapping[str, Any]:
        return {"login_url": settings.SITE_URL + reverse("login")}

    def is_wanted(self) -> bool:
        return self.account.is_active

    @classmethod
    def sample(cls) -> Self:
        return cls(User(pk=1, email="ann@example.com", name="Ann Example", language="en"))
