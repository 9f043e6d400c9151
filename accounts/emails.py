"""The e-mails of this app.

Those that anybody may cause by typing an address bear the address and not a user: whether there is an account is found out
in the worker, where nobody can measure it, and the mail is cancelled if there is none.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar, Self

from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from accounts import links
from accounts import verification as verifying
from accounts.models import (
    REVERSAL_LIFETIME,
    VERIFICATION_LIFETIME,
    EmailChange,
    EmailVerification,
    User,
)
from mailer.email import CRITICAL, Email, Recipient

SAMPLE = {"email": "ann@example.com", "name": "Ann Example", "language": "en"}


def recipient_of(user: User, address: str | None = None) -> Recipient:
    """The user as a mail addresses her."""
    return Recipient(address or user.email, name=user.name, language=user.language, time_zone=user.time_zone or None)


class VerifyAddress(Email):
    """Asks the owner of an address to confirm it."""

    template: ClassVar = "email/verify_address"
    queue: ClassVar = CRITICAL

    verification: EmailVerification

    def recipient(self) -> Recipient:
        return recipient_of(self.verification.user, self.verification.address)

    def user(self) -> User:
        return self.verification.user

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_verify(self.verification), "expires_at": self.verification.expires_at}

    def is_wanted(self) -> bool:
        return self.verification.is_open and not self.verification.user.is_verified

    def expires_at(self) -> datetime:
        return self.verification.expires_at

    @classmethod
    def sample(cls) -> Self:
        return cls(EmailVerification(user=User(pk=1, **SAMPLE), address=SAMPLE["email"]))


class AccountExists(Email):
    """Tells the owner of an account that somebody tried to sign up with its address."""

    template: ClassVar = "email/account_exists"

    account: User

    def recipient(self) -> Recipient:
        return recipient_of(self.account)

    def user(self) -> User:
        return self.account

    def context(self) -> Mapping[str, Any]:
        return {"login_url": settings.SITE_URL + reverse("login"), "reset_url": _reset_url()}

    def is_wanted(self) -> bool:
        return self.account.is_active

    @classmethod
    def sample(cls) -> Self:
        return cls(User(pk=1, **SAMPLE))


class VerifyAddressAgain(Email):
    """The link once more, for an account that waits for it."""

    template: ClassVar = "email/verify_address"
    queue: ClassVar = CRITICAL

    address: str

    @cached_property
    def account(self) -> User | None:
        return User.objects.filter(email=self.address, email_verified_at=None, is_active=True).first()

    @cached_property
    def verification(self) -> EmailVerification:
        assert self.account is not None, "is_wanted() comes first"
        return verifying.open_link(self.account)

    def recipient(self) -> Recipient:
        return recipient_of(self.account) if self.account else Recipient(self.address)

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_verify(self.verification), "expires_at": self.verification.expires_at}

    def is_wanted(self) -> bool:
        return self.account is not None

    def expires_at(self) -> datetime:
        return timezone.now() + VERIFICATION_LIFETIME

    @classmethod
    def sample(cls) -> Self:
        mail, user = cls(SAMPLE["email"]), User(pk=1, **SAMPLE)
        vars(mail).update(account=user, verification=EmailVerification(user=user, address=user.email))
        return mail


class ResetPassword(Email):
    """A link to choose a new password, for whoever has an account with the address."""

    template: ClassVar = "email/reset_password"
    queue: ClassVar = CRITICAL

    address: str

    @cached_property
    def account(self) -> User | None:
        return User.objects.filter(email=self.address, is_active=True).first()

    def recipient(self) -> Recipient:
        return recipient_of(self.account) if self.account else Recipient(self.address)

    def context(self) -> Mapping[str, Any]:
        assert self.account is not None, "is_wanted() comes first"
        return {"link": links.to_reset_password(self.account), "minutes": settings.PASSWORD_RESET_TIMEOUT // 60}

    def is_wanted(self) -> bool:
        return self.account is not None

    def expires_at(self) -> datetime:
        return timezone.now() + timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT)

    @classmethod
    def sample(cls) -> Self:
        mail = cls(SAMPLE["email"])
        vars(mail).update(account=User(pk=1, **SAMPLE))
        return mail


class LogInAlert(Email):
    """Tells the owner of an account that somebody tries passwords. It holds nothing that they typed."""

    template: ClassVar = "email/login_alert"

    address: str
    network: str
    at: str
    """When it happened, in ISO 8601."""

    @cached_property
    def account(self) -> User | None:
        return User.objects.filter(email=self.address, is_active=True).exclude(email_verified_at=None).first()

    def recipient(self) -> Recipient:
        return recipient_of(self.account) if self.account else Recipient(self.address)

    def context(self) -> Mapping[str, Any]:
        return {"moment": datetime.fromisoformat(self.at), "reset_url": _reset_url()}

    def is_wanted(self) -> bool:
        return self.account is not None

    @classmethod
    def sample(cls) -> Self:
        mail = cls(SAMPLE["email"], "203.0.113.0/24", "2026-11-22T12:00:00+00:00")
        vars(mail).update(account=User(pk=1, **SAMPLE))
        return mail


class PasswordChanged(Email):
    """Tells the owner that the account has a new password."""

    template: ClassVar = "email/password_changed"

    account: User

    def recipient(self) -> Recipient:
        return recipient_of(self.account)

    def user(self) -> User:
        return self.account

    def context(self) -> Mapping[str, Any]:
        return {"reset_url": _reset_url()}

    @classmethod
    def sample(cls) -> Self:
        return cls(User(pk=1, **SAMPLE))


class ConfirmNewAddress(Email):
    """Asks the owner of an address whether an account may have it from now on."""

    template: ClassVar = "email/confirm_new_address"
    queue: ClassVar = CRITICAL

    change: EmailChange

    def recipient(self) -> Recipient:
        # Without the name, which its owner chose: nobody has proved yet that the mail may go there.
        return replace(recipient_of(self.change.user, self.change.new_address), name="")

    def user(self) -> User:
        return self.change.user

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_confirm_change(self.change), "expires_at": self.change.expires_at}

    def is_wanted(self) -> bool:
        taken = User.objects.filter(email=self.change.new_address).exclude(verifying.NEVER_VERIFIED).exists()
        return self.change.is_open and self.change.user.is_active and not taken

    def expires_at(self) -> datetime:
        return self.change.expires_at

    @classmethod
    def sample(cls) -> Self:
        return cls(_sample_change())


class AddressChangeRequested(Email):
    """Tells the old address, with a link that stops it."""

    template: ClassVar = "email/address_change_requested"

    change: EmailChange

    def recipient(self) -> Recipient:
        return recipient_of(self.change.user, self.change.old_address)

    def user(self) -> User:
        return self.change.user

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_stop_change(self.change)}

    def is_wanted(self) -> bool:
        return self.change.is_open

    @classmethod
    def sample(cls) -> Self:
        return cls(_sample_change())


class AddressChanged(Email):
    """Tells the old address that it is the account's no more, with a link that takes it back."""

    template: ClassVar = "email/address_changed"

    change: EmailChange

    def recipient(self) -> Recipient:
        return recipient_of(self.change.user, self.change.old_address)

    def user(self) -> User:
        return self.change.user

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_stop_change(self.change), "days": REVERSAL_LIFETIME.days}

    def is_wanted(self) -> bool:
        return self.change.is_reversible

    @classmethod
    def sample(cls) -> Self:
        return cls(_sample_change())


class AccountDeleted(Email):
    """The last one: the account is gone, so everything stands in the mail's own fields."""

    template: ClassVar = "email/account_deleted"

    address: str
    name: str
    language: str
    time_zone: str

    def recipient(self) -> Recipient:
        return Recipient(self.address, self.name, self.language, self.time_zone or None)

    @classmethod
    def sample(cls) -> Self:
        return cls(SAMPLE["email"], SAMPLE["name"], "en", "")


def _reset_url() -> str:
    return settings.SITE_URL + reverse("password_reset")


def _sample_change() -> EmailChange:
    user = User(pk=1, **SAMPLE)
    return EmailChange(user=user, old_address=user.email, new_address="ann@new.example")
