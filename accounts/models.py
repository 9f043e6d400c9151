"""Users, who log in with their e-mail address, and the links with which they prove that an address is theirs."""

import secrets
import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import time_zones
from accounts.addresses import canonical
from accounts.sessions import Session  # noqa: F401 - a model of this app, kept beside its store

VERIFICATION_LIFETIME = timedelta(hours=24)
REVERSAL_LIFETIME = timedelta(days=7)
"""How long a confirmed change of address can be undone from the old address."""


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Create a user with an unverified address. Raise ValidationError if the address is invalid."""
        user = self.model(email=canonical(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Create an administrator. Their address counts as verified."""
        return self.create_user(
            email,
            password,
            is_staff=True,
            is_superuser=True,
            email_verified_at=timezone.now(),
            was_verified=True,
            **fields,
        )

    def lock_unchanged(self, user: "User") -> "User | None":
        """Lock and reload a user whose password was checked. Return None if the account or that password is gone."""
        return self.select_for_update().filter(pk=user.pk, password=user.password).first()


class User(AbstractBaseUser, PermissionsMixin):
    """A person with an account."""

    email = models.EmailField(_("e-mail address"), max_length=254, unique=True)
    name = models.CharField(max_length=150, blank=True, help_text="Used in the greeting of e-mails.")
    language = models.CharField(max_length=10, choices=settings.LANGUAGES, default=settings.LANGUAGE_CODE)
    time_zone = models.CharField(
        max_length=50, blank=True, db_default="", default="", help_text="For example Asia/Bangkok. Empty: the site's."
    )
    email_verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    was_verified = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="An address of this account was verified once."
    )
    is_staff = models.BooleanField("staff", default=False, help_text="May log in to the admin.")
    is_active = models.BooleanField(
        "active", default=True, help_text="Switch this off instead of deleting the account."
    )
    date_joined = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS = []

    def __str__(self) -> str:
        return self.email

    def clean(self) -> None:
        """Store the address and the time zone in the form in which they are found."""
        self.email = canonical(self.email)
        self.time_zone = time_zones.validated(self.time_zone)

    @property
    def known_time_zone(self) -> str:
        """The time zone; empty, which is the site's, if the stored one does not exist."""
        return time_zones.known(self.time_zone)

    @property
    def has_verified_email(self) -> bool:
        """Whether the current address is verified."""
        return self.email_verified_at is not None


def _expiry() -> datetime:
    return timezone.now() + VERIFICATION_LIFETIME


def _secret() -> str:
    return secrets.token_hex(16)


class MailedLink(models.Model):
    """A link that proves an address. Its code is derived from the row and SECRET_KEY and is not stored."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    secret = models.CharField(max_length=32, default=_secret, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(default=_expiry)

    class Meta:
        abstract = True
        ordering = ["-created_at"]

    def signing_input(self) -> str:
        """Return the text from which the code is derived."""
        raise NotImplementedError


class EmailVerification(MailedLink):
    """A link that verifies the address of an account."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="email_verifications")
    address = models.EmailField(max_length=254, help_text="The user's address when the link was made.")
    used_at = models.DateTimeField(null=True, blank=True)
    superseded_at = models.DateTimeField(null=True, blank=True, help_text="When a newer link replaced it.")
    begun_by = models.UUIDField(
        null=True, blank=True, editable=False, help_text="The only sign-up behind it; empty after a second one."
    )

    class Meta(MailedLink.Meta):
        constraints = [
            models.UniqueConstraint(
                "user",
                name="verification_one_open",
                condition=models.Q(used_at__isnull=True, superseded_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"verification {self.pk}"

    @property
    def is_pending(self) -> bool:
        """Whether the link was neither used nor replaced."""
        return self.used_at is None and self.superseded_at is None

    @property
    def is_open(self) -> bool:
        """Whether the link still works."""
        return self.is_pending and timezone.now() < self.expires_at

    def signing_input(self) -> str:
        return f"{self.pk}:{self.user_id}:{self.address}:{self.secret}"


class EmailChange(MailedLink):
    """A request for another address: confirmed by a link to the new one, stopped or undone by a link to the old one."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="email_changes")
    old_address = models.EmailField(max_length=254)
    new_address = models.EmailField(max_length=254)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(
        null=True, blank=True, help_text="When its link, a newer request or an administrator stopped it."
    )

    class Meta(MailedLink.Meta):
        constraints = [
            models.UniqueConstraint(
                "user",
                name="email_change_one_open",
                condition=models.Q(confirmed_at__isnull=True, stopped_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"change of address {self.pk}"

    @property
    def is_pending(self) -> bool:
        """Whether it was neither confirmed nor stopped."""
        return self.confirmed_at is None and self.stopped_at is None

    @property
    def is_open(self) -> bool:
        """Whether it can still be confirmed."""
        return self.is_pending and timezone.now() < self.expires_at

    @property
    def is_reversible(self) -> bool:
        """Whether it was confirmed and can still be undone."""
        ends = self.reversible_until
        return ends is not None and self.stopped_at is None and timezone.now() < ends

    @property
    def reversible_until(self) -> datetime | None:
        """The end of the time in which it can be undone; None while it is not confirmed."""
        return self.confirmed_at and self.confirmed_at + REVERSAL_LIFETIME

    def signing_input(self) -> str:
        return f"{self.pk}:{self.user_id}:{self.old_address}:{self.new_address}:{self.secret}"


class TimesField(models.Field):  # type: ignore[type-arg]
    """Seconds since 1970. Django's ArrayField would need an app that asks each new connection for types of extensions."""

    def db_type(self, connection: Any) -> str:
        return "double precision[]"


class MovingWindow(models.Model):
    """The times of the last events that a limit allowed for one identity."""

    key = models.UUIDField(primary_key=True, help_text="A hash of the limit and the identity.")
    amount = models.IntegerField(help_text="The limit: so many events.")
    seconds = models.IntegerField(help_text="The limit: in so many seconds.")
    hits = TimesField(help_text="The last of them, at most `amount`.")

    def __str__(self) -> str:
        return f"moving window {self.key}"
