"""Verify that an address belongs to the person who signed up with it."""

from dataclasses import replace
from uuid import UUID

import structlog
from django.contrib.auth.hashers import check_password
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts import links
from accounts.links import Link, LinkState
from accounts.models import VERIFICATION_LIFETIME, EmailVerification, User
from mailer import outbox

log = structlog.get_logger("accounts")

NEVER_VERIFIED = Q(email_verified_at=None, was_verified=False, is_staff=False, is_superuser=False)
"""Accounts that may be deleted. `was_verified` stays true when an administrator changes the address."""


def begin(user: User) -> EmailVerification:
    """Make a new link for the user's address and end the previous one. Call it in the transaction that mails the link."""
    supersede(user)
    return EmailVerification.objects.create(user=user, address=user.email)


def begin_first(user: User, *, sign_up: UUID | None) -> EmailVerification:
    """Make the first link of an account, which this sign-up alone has created."""
    return EmailVerification.objects.create(user=user, address=user.email, begun_by=sign_up)


def share(user: User) -> None:
    """Take the power over the user's link from the sign-up that began it: another browser signed up with the address."""
    user.email_verifications.update(begun_by=None)


def end_link_of(sign_up: UUID) -> None:
    """End the link that this sign-up began, unless another sign-up shares it."""
    _open().filter(begun_by=sign_up).update(superseded_at=timezone.now())


def supersede(user: User) -> None:
    """End the user's open link."""
    _open().filter(user=user).update(superseded_at=timezone.now())


def open_link(user: User) -> EmailVerification:
    """Return the user's open link, or a new one if it expires soon. The links in two e-mails are then the same."""
    with transaction.atomic():
        user = User.objects.select_for_update().get(pk=user.pk)
        enough = timezone.now() + VERIFICATION_LIFETIME / 2
        if current := _open().filter(user=user, address=user.email, expires_at__gt=enough).first():
            return current
        return begin(user)


def look_up(verification_id: UUID, code: str) -> Link:
    """Look up a link. Change nothing."""
    return _described(_find(verification_id, code))


def complete(
    verification_id: UUID, code: str, *, password: str | None, sign_up: UUID | None = None, chosen: str = ""
) -> Link:
    """Use an open link to verify its address. Only one of several concurrent calls returns DONE.

    The owner of the address must not confirm an account that another person opened with it. So `password` is the account's,
    or the one that this browser signed up with: `chosen` is its hash, and it becomes the account's. `password` is None in a
    browser that is logged in to the account, and in that of `sign_up`, if it is the only one behind the link.
    """
    verification = _find(verification_id, code)
    link = _described(verification)
    if verification is None or link.state is not LinkState.OPEN:
        return link
    user, hashed = verification.user, None
    if password is not None and not check_password(password, user.password):
        if user.was_verified or not chosen or not check_password(password, chosen):
            return replace(link, state=LinkState.NOT_THE_OWNER)
        hashed = chosen
    if not _use(verification, password=hashed, sign_up=sign_up):
        return look_up(verification_id, code)
    log.info("address verified", user=verification.user_id, verification=str(verification.pk))
    return replace(link, state=LinkState.DONE)


def complete_with_digits(address: str, digits: str, *, sign_up: UUID) -> bool:
    """Use the link of this sign-up, whose browser typed the digits that stand beside the link in the mail.

    Return False if they are wrong. So are all digits if the sign-up made no account, or if another one shares it.
    """
    verification = _open().select_related("user").filter(user__email=address, begun_by=sign_up).first()
    if verification is None or not links.are_digits_of(verification, digits):
        return False
    if not _use(verification, password=None, sign_up=sign_up):
        return False
    log.info("address verified by digits", user=verification.user_id, verification=str(verification.pk))
    return True


def disown(verification_id: UUID, code: str) -> bool:
    """Delete the account of an open link, because the owner of the address did not sign up.

    Return False if the link is not open or the account was verified before.
    """
    verification = _find(verification_id, code)
    if verification is None or not verification.is_open or not withdraw(verification.user_id):
        return False
    log.info("account deleted: the owner of the address did not sign up", user=verification.user_id)
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


def _open() -> QuerySet[EmailVerification]:
    return EmailVerification.objects.filter(used_at=None, superseded_at=None)


def _use(verification: EmailVerification, *, password: str | None, sign_up: UUID | None) -> bool:
    """Use the link, if neither it nor the account's password changed since they were checked."""
    now = timezone.now()
    link = _open().filter(pk=verification.pk, expires_at__gt=now)
    if sign_up is not None:
        link = link.filter(begun_by=sign_up)
    with transaction.atomic():
        # Every use case locks the user first: two different orders could deadlock.
        user = User.objects.lock_unchanged(verification.user)
        if user is None or user.email != verification.address or not link.update(used_at=now):
            return False
        marks = {"email_verified_at": now, "was_verified": True} | ({"password": password} if password else {})
        User.objects.filter(pk=user.pk).update(**marks)
        outbox.has_arrived(user.email)
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
    return Link(state, verification.user_id, verification.address, begun_by=verification.begun_by)
