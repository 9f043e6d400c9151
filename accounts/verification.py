"""Verify that an address belongs to the person who signed up with it."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import structlog
from django.contrib.auth.hashers import check_password
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import links
from accounts.links import Link, LinkState
from accounts.models import VERIFICATION_LIFETIME, EmailVerification, User
from mailer import outbox

log = structlog.get_logger("accounts")

PAUSE = timedelta(minutes=1)
"""The shortest time between two links for one account."""
NEVER_VERIFIED = Q(email_verified_at=None, was_verified=False, is_staff=False, is_superuser=False)
"""Accounts that may be deleted. `was_verified` stays when an administrator changes an address and so unverifies it."""


def begin(user: User) -> EmailVerification:
    """Make a new link for the user's address and end the previous one. Call it in the transaction that mails the link."""
    supersede(user)
    return EmailVerification.objects.create(user=user, address=user.email)


def was_begun_lately(user: User) -> bool:
    """Whether a link for the user was made within PAUSE."""
    return user.email_verifications.filter(created_at__gt=timezone.now() - PAUSE).exists()


def supersede(user: User) -> None:
    """End the user's open link."""
    user.email_verifications.filter(used_at=None, superseded_at=None).update(superseded_at=timezone.now())


def open_link(user: User) -> EmailVerification:
    """Return the user's open link, or a new one if it expires soon. The links in two e-mails are then the same."""
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        enough = timezone.now() + VERIFICATION_LIFETIME / 2
        current = user.email_verifications.filter(
            used_at=None, superseded_at=None, address=user.email, expires_at__gt=enough
        ).first()
        return current or begin(user)


def follow(verification_id: UUID, code: str) -> Link:
    """Look a link up without changing anything."""
    return _described(_find(verification_id, code))


def complete(verification_id: UUID, code: str, *, password: str | None) -> Link:
    """Use an open link to verify its address. Only one of several concurrent calls returns DONE.

    `password` is the account's. It is None only for the browser that signed up or is logged in: the owner of the
    address must not confirm an account that another person opened with it.
    """
    verification = _find(verification_id, code)
    link = _described(verification)
    if verification is None or link.state is not LinkState.OPEN:
        return link
    if password is not None and not check_password(password, verification.user.password):
        return replace(link, state=LinkState.NOT_THE_OWNER)
    if not _spend(verification):
        return follow(verification_id, code)
    log.info("address verified", user=verification.user_id, verification=str(verification.pk))
    return replace(link, state=LinkState.DONE)


def disown(verification_id: UUID, code: str) -> bool:
    """Delete the account of an open link, because the owner of the address did not sign up.

    Return False if the link is not open or the account was verified before.
    """
    verification = _find(verification_id, code)
    if verification is None or not verification.is_open or not withdraw(verification.user_id):
        return False
    log.info("account disowned", user=verification.user_id)
    return True


def withdraw(user_id: int) -> bool:
    """Delete an account that was never verified, and cancel its unsent mail. Return False if there is no such account."""
    with transaction.atomic():
        user = User.objects.select_for_update().filter(NEVER_VERIFIED, pk=user_id).first()
        if user is None:
            return False
        outbox.cancel_all(outbox.messages_of(user), reason="the account was withdrawn before its address was verified")
        user.delete()
    return True


def is_taken(address: str, user: User) -> bool:
    """Whether the address belongs to an account other than this user's. An account that was never verified does not count."""
    return User.objects.filter(email=address).exclude(NEVER_VERIFIED).exclude(pk=user.pk).exists()


def _spend(verification: EmailVerification) -> bool:
    now = timezone.now()
    unspent = EmailVerification.objects.filter(used_at=None, superseded_at=None, expires_at__gt=now)
    with transaction.atomic():
        # Every use case locks the user first: two different orders could deadlock.
        user = User.objects.select_for_update().filter(pk=verification.user_id, email=verification.address).first()
        if user is None or not unspent.filter(pk=verification.pk).update(used_at=now):
            return False
        User.objects.filter(pk=user.pk).update(email_verified_at=now, was_verified=True)
    return True


def _find(verification_id: UUID, code: str) -> EmailVerification | None:
    return links.find(EmailVerification, verification_id, code, links.VERIFY)


def _described(verification: EmailVerification | None) -> Link:
    if verification is None:
        return Link(LinkState.UNKNOWN)
    if verification.used_at:
        state = LinkState.USED
    elif verification.superseded_at or verification.address != verification.user.email:
        state = LinkState.SUPERSEDED
    else:
        state = LinkState.OPEN if verification.is_open else LinkState.EXPIRED
    return Link(state, verification.user_id, verification.address)
