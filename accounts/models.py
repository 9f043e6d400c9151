"""Users, whose e-mail address is their login, and the links by which they prove that an address is theirs."""

import secrets
import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.addresses import canonical
from accounts.sessions import Session  # noqa: F401 - a model of this app, which stands beside its store

VERIFICATION_LIFETIME = timedelta(hours=24)
REVERSAL_LIFETIME = timedelta(days=7)
"""For how long the owner of an old address can take a change back."""


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Creates a user whose address is not verified. Raises ValidationError for an address that cannot be written to."""
        user = self.model(email=canonical(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """Creates an administrator. Whoever may create one need not prove the address."""
        return self.create_user(
            email,
            password,
            is_staff=True,
            is_superuser=True,
            email_verified_at=timezone.now(),
            was_verified=True,
            **fields,
        )


class User(AbstractBaseUser, PermissionsMixin):
    """Somebody with an account."""

    email = models.EmailField(_("e-mail address"), max_length=254, unique=True)
    name = models.CharField(max_length=150, blank=True, help_text="How to address the person in a mail.")
    language = models.CharField(max_length=10, choices=settings.LANGUAGES, default=settings.LANGUAGE_CODE)
    time_zone = models.CharField(
        max_length=50, blank=True, db_default="", default="", help_text="As in Asia/Bangkok; the site's own if empty."
    )
    email_verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    was_verified = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="Once, whatever the address is now."
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
        """Called by every form: however an address was typed, it is stored in its canonical form."""
        self.email = canonical(self.email)

    @property
    def is_verified(self) -> bool:
        """Whether the owner of the address confirmed it."""
        return self.email_verified_at is not None


def _expiry() -> datetime:
    return timezone.now() + VERIFICATION_LIFETIME


def _secret() -> str:
    return secrets.token_hex(16)


class EmailVerification(models.Model):
    """One link to one address. The code in the link is derived from this row and a key, and stands in no table."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="email_verifications")
    address = models.EmailField(
        max_length=254, help_text="The address it was made for, whatever becomes of the user's."
    )
    secret = models.CharField(max_length=32, default=_secret, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(default=_expiry)
    used_at = models.DateTimeField(null=True, blank=True)
    superseded_at = models.DateTimeField(null=True, blank=True, help_text="A newer link took its place.")

    class Meta:
        ordering = ["-created_at"]
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
    def is_open(self) -> bool:
        """Whether its link still verifies."""
        return self.used_at is None and self.superseded_at is None and timezone.now() < self.expires_at


class EmailChange(models.Model):
    """A wish to have another address: confirmed by a link to the new one, stopped or taken back by a link to the old one."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="email_changes")
    old_address = models.EmailField(max_length=254)
    new_address = models.EmailField(max_length=254)
    secret = models.CharField(max_length=32, default=_secret, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(default=_expiry)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True, help_text="By its maker, by a link, or by a newer wish.")

    class Meta:
        ordering = ["-created_at"]
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
    def is_open(self) -> bool:
        """Whether it can still be confirmed."""
        return self.confirmed_at is None and self.stopped_at is None and timezone.now() < self.expires_at

    @property
    def is_reversible(self) -> bool:
        """Whether it was confirmed, and can still be taken back."""
        return (
            self.confirmed_at is not None
            and self.stopped_at is None
            and timezone.now() < self.confirmed_at + REVERSAL_LIFETIME
        )


class Hit(models.Model):
    """One event that a limit counts, while Redis is away. The key is a hash."""

    key = models.CharField(max_length=200)
    at = models.FloatField(help_text="Seconds since 1970.")

    class Meta:
        indexes = [models.Index("key", "at", name="hit_window")]

    def __str__(self) -> str:
        return f"hit {self.pk}"
