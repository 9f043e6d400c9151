"""Proving that an address belongs to the person who signed up with it."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from accounts.models import EmailVerification, User

log = structlog.get_logger("accounts")

SALT = "accounts.verification"
"""A salt of its own: a code for one purpose must be worth nothing for another one."""
CODE_LENGTH = 40
"""Hexadecimal digits, 160 bits."""
PAUSE = timedelta(minutes=1)
"""Between two links to one person."""


class LinkState(StrEnum):
    """What can be said of a link that somebody followed."""

    OPEN = "open"
    SPENT_NOW = "spent_now"
    """This very request verified the address."""
    EXPIRED = "expired"
    USED = "used"
    SUPERSEDED = "superseded"
    UNKNOWN = "unknown"
    """No such link was ever sent: a wrong id and a wrong code look the same from outside."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link that somebody followed, and the address that it is about; none for one that is unknown."""

    state: LinkState
    address: str = ""


def begin(user: User) -> EmailVerification:
    """Makes a new link for the user's address, in place of the one before it. Run it in a transaction, and mail it there."""
    now = timezone.now()
    user.email_verifications.filter(used_at=None, superseded_at=None).update(superseded_at=now)
    return EmailVerification.objects.create(user=user, address=user.email)


def was_begun_lately(user: User) -> bool:
    """Whether the user got a link so recently that another one would be a nuisance."""
    return user.email_verifications.filter(created_at__gt=timezone.now() - PAUSE).exists()


def code_of(verification: EmailVerification) -> str:
    """The code of the link: an HMAC (RFC 2104) over the row, under SECRET_KEY."""
    return _code(verification, settings.SECRET_KEY)


def url_of(verification: EmailVerification) -> str:
    """The whole link, as it stands in the mail."""
    return settings.SITE_URL + reverse("verify", args=[verification.pk, code_of(verification)])


def follow(verification_id: UUID, code: str) -> Link:
    """Looks a link up and changes nothing."""
    verification = _find(verification_id, code)
    return Link(_state_of(verification), verification.address) if verification else Link(LinkState.UNKNOWN)


def complete(verification_id: UUID, code: str) -> Link:
    """Spends an open link and verifies its address. However many try at the same time, one of them gets SPENT_NOW."""
    verification = _find(verification_id, code)
    if verification is None or not _spend(verification):
        return follow(verification_id, code)
    log.info("address verified", user=verification.user_id, verification=str(verification.pk))
    return Link(LinkState.SPENT_NOW, verification.address)


def _spend(verification: EmailVerification) -> bool:
    now = timezone.now()
    unspent = EmailVerification.objects.filter(used_at=None, superseded_at=None, expires_at__gt=now)
    with transaction.atomic():
        # The user first, as in every use case here: two orders of locks are a deadlock.
        user = User.objects.select_for_update().get(pk=verification.user_id)
        if user.email != verification.address or not unspent.filter(pk=verification.pk).update(used_at=now):
            return False
        User.objects.filter(pk=user.pk).update(email_verified_at=now)
    return True


def _find(verification_id: UUID, code: str) -> EmailVerification | None:
    verification = EmailVerification.objects.select_related("user").filter(pk=verification_id).first()
    return verification if verification and _is_right(code, verification) else None


def _state_of(verification: EmailVerification) -> LinkState:
    if verification.used_at:
        return LinkState.USED
    if verification.superseded_at or verification.address != verification.user.email:
        return LinkState.SUPERSEDED
    return LinkState.OPEN if verification.is_open else LinkState.EXPIRED


def _is_right(code: str, verification: EmailVerification) -> bool:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any(constant_time_compare(code, _code(verification, key)) for key in keys)


def _code(verification: EmailVerification, key: str) -> str:
    row = f"{verification.pk}:{verification.user_id}:{verification.address}:{verification.secret}"
    return salted_hmac(SALT, row, secret=key, algorithm="sha256").hexdigest()[:CODE_LENGTH]
