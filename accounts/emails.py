"""The e-mails of this app.

A kind that anyone may cause by typing an address has a field for the address, not for a user. The worker looks the account
up, where response times cannot be measured, and cancels the mail if there is no account. It counts there, too, against the
limits on mail to one mailbox: a mail that was cancelled must not spend them.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar, Self

from django.conf import settings
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone

from accounts import links, throttling
from accounts import verification as verifying
from accounts.addresses import mailbox
from accounts.models import REVERSAL_LIFETIME, VERIFICATION_LIFETIME, EmailChange, EmailVerification, User
from accounts.network import beginning
from mailer.email import CRITICAL, Email, Recipient, Unwanted

SAMPLE = {"email": "ann@example.com", "name": "Ann Example", "language": "en"}


def recipient_of(user: User, address: str | None = None) -> Recipient:
    """Return the user as a recipient, at their own or at another address."""
    return Recipient(address or user.email, name=user.name, language=user.language, time_zone=user.time_zone or None)


def until(expires_at: datetime) -> dict[str, Any]:
    """Return what templates/email/works_until.txt shows: the time for people with a time zone, the hours for all others."""
    left = expires_at - timezone.now() + timedelta(minutes=5)  # the mail may have been on its way for some seconds
    return {"expires_at": expires_at, "hours": max(left // timedelta(hours=1), 0)}


def to_verify(verification: EmailVerification) -> dict[str, Any]:
    """Return what the templates show of a link, and the digits if one sign-up alone is behind it."""
    digits = links.digits(verification) if verification.begun_by else ""
    return {"link": links.to_verify(verification), "digits": digits, **until(verification.expires_at)}


@dataclass(frozen=True)
class Limited:
    """An e-mail that a stranger can cause. Above the limits of its purpose, the mailbox gets no more."""

    purpose: ClassVar[throttling.Purpose]

    request: str = field(default_factory=lambda: uuid.uuid4().hex, kw_only=True)
    """Names the request, so that several attempts to send count as one mail."""

    def about(self, address: str) -> str:
        """Return a name of what the mail is about. The same is not mailed twice within a minute."""
        return f"{self.purpose} {address}"

    def check_limits(self, address: str, *, is_verified: bool) -> bool:
        """Count the mail, and return True. Raise Unwanted if the mailbox has had enough.

        A verified account counts for itself: strangers can sign up with other spellings of its address.
        """
        box = f"account {address}" if is_verified else f"mailbox {mailbox(address)}"
        if not throttling.may_mail(self.purpose, box, about=self.about(address), request=self.request):
            raise Unwanted("too many mails of this kind to this mailbox lately")
        return True


@dataclass(frozen=True)
class ToAccount:
    """An e-mail to the owner of a known account."""

    account: User

    def recipient(self) -> Recipient:
        return recipient_of(self.account)

    def user(self) -> User:
        return self.account

    @classmethod
    def sample(cls) -> Self:
        return cls(User(pk=1, **SAMPLE))


@dataclass(frozen=True)
class ToAddress(Limited):
    """An e-mail to an address that may have an account. It is cancelled if it has none."""

    address: str

    def accounts(self) -> "QuerySet[User]":
        """Return the accounts that the e-mail is for: one or none."""
        return User.objects.filter(email=self.address, is_active=True)

    @cached_property
    def account(self) -> User | None:
        return self.accounts().first()

    def recipient(self) -> Recipient:
        return recipient_of(self.account) if self.account else Recipient(self.address)

    def is_wanted(self) -> bool:
        account = self.account
        return account is not None and self.check_limits(self.address, is_verified=account.has_verified_email)

    @classmethod
    def to(cls, user: User, *fields: str) -> Self:
        """Return the e-mail for a user who is loaded already."""
        mail = cls(user.email, *fields)
        vars(mail).update(account=user)
        return mail


@dataclass(frozen=True)
class AboutChange:
    """An e-mail about a change of address, to the old address."""

    change: EmailChange

    def recipient(self) -> Recipient:
        return recipient_of(self.change.user, self.change.old_address)

    def user(self) -> User:
        return self.change.user

    @classmethod
    def sample(cls) -> Self:
        user = User(pk=1, **SAMPLE)
        return cls(EmailChange(user=user, old_address=user.email, new_address="ann@new.example"))


class VerifyAddress(Limited, Email):
    """Ask the owner of an address to verify it."""

    template: ClassVar = "email/verify_address"
    queue: ClassVar = CRITICAL
    purpose: ClassVar = throttling.Purpose.SIGN_UP

    verification: EmailVerification

    def recipient(self) -> Recipient:
        return recipient_of(self.verification.user, self.verification.address)

    def user(self) -> User:
        return self.verification.user

    def context(self) -> Mapping[str, Any]:
        return to_verify(self.verification)

    def is_wanted(self) -> bool:
        is_needed = self.verification.is_pending and not self.verification.user.has_verified_email
        return is_needed and self.check_limits(self.verification.address, is_verified=False)

    def about(self, address: str) -> str:
        return f"link {self.verification.pk}"

    def expires_at(self) -> datetime:
        return self.verification.expires_at

    @classmethod
    def sample(cls) -> Self:
        user = User(pk=1, **SAMPLE)
        return cls(EmailVerification(user=user, address=user.email, begun_by=uuid.uuid4()))


class VerifyAddressAgain(ToAddress, Email):
    """Send the link again if the address is not verified yet."""

    template: ClassVar = "email/verify_address"
    queue: ClassVar = CRITICAL
    purpose: ClassVar = throttling.Purpose.VERIFY

    def accounts(self) -> "QuerySet[User]":
        return super().accounts().filter(email_verified_at=None)

    @cached_property
    def verification(self) -> EmailVerification:
        assert self.account is not None, "is_wanted() comes first"
        return verifying.open_link(self.account)

    def about(self, address: str) -> str:
        return f"link {self.verification.pk}"

    def context(self) -> Mapping[str, Any]:
        return {"is_again": True, **to_verify(self.verification)}

    def expires_at(self) -> datetime:
        return timezone.now() + VERIFICATION_LIFETIME

    @classmethod
    def sample(cls) -> Self:
        user = User(pk=1, **SAMPLE)
        mail = cls.to(user)
        vars(mail).update(verification=EmailVerification(user=user, address=user.email))
        return mail


class AccountExists(Limited, ToAccount, Email):
    """Notify the owner of an account that its address was used to sign up again."""

    template: ClassVar = "email/account_exists"
    purpose: ClassVar = throttling.Purpose.ACCOUNT_EXISTS

    def context(self) -> Mapping[str, Any]:
        return {"login_url": settings.SITE_URL + reverse("login"), "reset_url": _reset_url()}

    def is_wanted(self) -> bool:
        return self.account.is_active and self.check_limits(self.account.email, is_verified=True)


class ResetPassword(ToAddress, Email):
    """Send a link to choose a new password."""

    template: ClassVar = "email/reset_password"
    queue: ClassVar = CRITICAL
    purpose: ClassVar = throttling.Purpose.RESET

    by_owner: bool = field(default=False, kw_only=True)
    """The owner of the mailbox proved that they read it. No limit applies: strangers may have spent it."""

    def check_limits(self, address: str, *, is_verified: bool) -> bool:
        return self.by_owner or super().check_limits(address, is_verified=is_verified)

    def context(self) -> Mapping[str, Any]:
        assert self.account is not None, "is_wanted() comes first"
        return {"link": links.to_reset_password(self.account), "minutes": settings.PASSWORD_RESET_TIMEOUT // 60}

    def expires_at(self) -> datetime:
        return timezone.now() + timedelta(seconds=settings.PASSWORD_RESET_TIMEOUT)

    @classmethod
    def sample(cls) -> Self:
        return cls.to(User(pk=1, **SAMPLE))


class LogInAlert(ToAddress, Email):
    """Notify the owner of an account of failed log-ins. It contains nothing that was typed."""

    template: ClassVar = "email/login_alert"
    purpose: ClassVar = throttling.Purpose.ALERT

    network: str
    at: str
    """When it happened, in ISO 8601."""

    def accounts(self) -> "QuerySet[User]":
        return super().accounts().exclude(email_verified_at=None)

    def context(self) -> Mapping[str, Any]:
        moment = datetime.fromisoformat(self.at)
        return {"moment": moment, "beginning": beginning(self.network), "reset_url": _reset_url()}

    @classmethod
    def sample(cls) -> Self:
        return cls.to(User(pk=1, **SAMPLE), "203.0.113.0/24", "2026-11-22T12:00:00+00:00")


class PasswordChanged(ToAccount, Email):
    """Notify the owner that the account has a new password."""

    template: ClassVar = "email/password_changed"

    def context(self) -> Mapping[str, Any]:
        return {"reset_url": _reset_url()}


class ConfirmNewAddress(Limited, AboutChange, Email):
    """Ask the owner of the new address to confirm the change."""

    template: ClassVar = "email/confirm_new_address"
    queue: ClassVar = CRITICAL
    purpose: ClassVar = throttling.Purpose.NEW_ADDRESS

    def recipient(self) -> Recipient:
        # Without the name that the user chose: the address may belong to another person.
        return replace(recipient_of(self.change.user, self.change.new_address), name="")

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_confirm_change(self.change), **until(self.change.expires_at)}

    def is_wanted(self) -> bool:
        user, address = self.change.user, self.change.new_address
        is_free = self.change.is_pending and user.is_active and not verifying.is_taken(address, user)
        return is_free and self.check_limits(address, is_verified=False)

    def expires_at(self) -> datetime:
        return self.change.expires_at


class AddressChangeRequested(AboutChange, Email):
    """Notify the old address of the request, with a link that stops it."""

    template: ClassVar = "email/address_change_requested"

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_stop_change(self.change)}

    def is_wanted(self) -> bool:
        return self.change.is_pending

    def expires_at(self) -> datetime:
        return self.change.expires_at


class AddressChanged(AboutChange, Email):
    """Notify the old address of the change, with a link that undoes it."""

    template: ClassVar = "email/address_changed"

    def context(self) -> Mapping[str, Any]:
        return {"link": links.to_stop_change(self.change), "days": REVERSAL_LIFETIME.days}

    def is_wanted(self) -> bool:
        return self.change.confirmed_at is not None and self.change.stopped_at is None

    def expires_at(self) -> datetime | None:
        return self.change.reversible_until


class AccountDeleted(Email):
    """Confirm that the account is deleted. The account is gone, so the e-mail stores what it needs."""

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
