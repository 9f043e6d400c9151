"""Proving that an address belongs to the person who signed up with it."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from django.contrib.auth.hashers import check_password
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import links
from accounts.models import VERIFICATION_LIFETIME, EmailVerification, User
from mailer import outbox

log = structlog.get_logger("accounts")

PAUSE = timedelta(minutes=1)
"""Between two links to one person."""
NEVER_VERIFIED = Q(email_verified_at=None, was_verified=False, is_staff=False, is_superuser=False)
"""Accounts that may go: never staff, and never who was verified once, since an administrator who changes an address takes
the mark away."""


class LinkState(StrEnum):
    """What can be said of a link that somebody followed."""

    OPEN = "open"
    SPENT_NOW = "spent_now"
    """This very request verified the address."""
    EXPIRED = "expired"
    USED = "used"
    SUPERSEDED = "superseded"
    NOT_THE_OWNER = "wrong_password"
    """The link is open, and who followed it did not know the account's password."""
    UNKNOWN = "unknown"
    """No such link was ever sent: a wrong id and a wrong code look the same from outside."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link that somebody followed, and the address that it is about; none for one that is unknown."""

    state: LinkState
    address: str = ""
    user_id: int | None = None


def begin(user: User) -> EmailVerification:
    """Makes a new link for the user's address, in place of the one before it. Run it in a transaction, and mail it there."""
    supersede(user)
    return EmailVerification.objects.create(user=user, address=user.email)


def was_begun_lately(user: User) -> bool:
    """Whether the user got a link so recently that another one would be a nuisance."""
    return user.email_verifications.filter(created_at__gt=timezone.now() - PAUSE).exists()


def supersede(user: User) -> None:
    """Ends the user's open link, if there is one."""
    user.email_verifications.filter(used_at=None, superseded_at=None).update(superseded_at=timezone.now())


def open_link(user: User) -> EmailVerification:
    """The link that the user got already, if it works for a while yet; else a new one. Either mail then leads to it."""
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        enough = timezone.now() + VERIFICATION_LIFETIME / 2
        current = user.email_verifications.filter(
            used_at=None, superseded_at=None, address=user.email, expires_at__gt=enough
        ).first()
        return current or begin(user)


def follow(verification_id: UUID, code: str) -> Link:
    """Looks a link up and changes nothing."""
    verification = _find(verification_id, code)
    if verification is None:
        return Link(LinkState.UNKNOWN)
    return Link(_state_of(verification), verification.address, verification.user_id)


def complete(verification_id: UUID, code: str, *, password: str | None) -> Link:
    """Spends an open link and verifies its address. However many try at the same time, one of them gets SPENT_NOW.

    `password` is the account's, and None only for the browser that signed up: somebody may have signed up with another
    person's address, and that person must not bless the account by pressing a button.
    """
    verification = _find(verification_id, code)
    if verification is None or not verification.is_open:
        return follow(verification_id, code)
    if password is not None and not check_password(password, verification.user.password):
        return Link(LinkState.NOT_THE_OWNER, verification.address, verification.user_id)
    if not _spend(verification):
        return follow(verification_id, code)
    log.info("address verified", user=verification.user_id, verification=str(verification.pk))
    return Link(LinkState.SPENT_NOW, verification.address, verification.user_id)


def disown(verification_id: UUID, code: str) -> bool:
    """Ends the account of an open link: the owner of the address says that somebody else signed up with it.

    False for a link that is not open, and for an account that was verified once.
    """
    verification = _find(verification_id, code)
    if verification is None or not verification.is_open:
        return False
    ended = withdraw(verification.user_id)
    if ended:
        log.info("account disowned", user=verification.user_id)
    return ended


def withdraw(user_id: int) -> bool:
    """Deletes an account that was never verified, and cancels the mail to it that waits. False if it is no such account."""
    with transaction.atomic():
        user = User.objects.select_for_update().filter(NEVER_VERIFIED, pk=user_id).first()
        if user is None:
            return False
        outbox.cancel_all(outbox.messages_of(user), reason="the account was withdrawn before its address was verified")
        user.delete()
    return True


def _spend(verification: EmailVerification) -> bool:
    now = timezone.now()
    unspent = EmailVerification.objects.filter(used_at=None, superseded_at=None, expires_at__gt=now)
    with transaction.atomic():
        # The user first, as in every use case here: two orders of locks are a deadlock.
        user = User.objects.select_for_update().filter(pk=verification.user_id, email=verification.address).first()
        if user is None or not unspent.filter(pk=verification.pk).update(used_at=now):
            return False
        User.objects.filter(pk=user.pk).update(email_verified_at=now, was_verified=True)
    return True


def _find(verification_id: UUID, code: str) -> EmailVerification | None:
    verification = EmailVerification.objects.select_related("user").filter(pk=verification_id).first()
    if verification is None or not links.is_right(code, links.VERIFY, links.row_of_verification(verification)):
        return None
    return verification


def _state_of(verification: EmailVerification) -> LinkState:
    if verification.used_at:
        return LinkState.USED
    if verification.superseded_at or verification.address != verification.user.email:
        return LinkState.SUPERSEDED
    return LinkState.OPEN if verification.is_open else LinkState.EXPIRED
