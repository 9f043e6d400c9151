"""Sign up, correct a mistyped address, and resend the link. Nothing here reveals whether an address is known."""

from datetime import timedelta

import structlog
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import OperationalError, transaction

from accounts import throttling, verification
from accounts.emails import AccountExists, VerifyAddress, VerifyAddressAgain
from accounts.models import User
from mailer import outbox

log = structlog.get_logger("accounts")

PURPOSE = "verify"
"""The purpose in rate limits, shared by the first link and resent ones."""


def sign_up(email: str, password: str, *, language: str, network: str | None = None) -> int | None:
    """Create the account and enqueue the mail with its link, in one transaction.

    A known address gets a mail that says so or, while it is not verified, a new link; its password is kept. Above a rate
    limit the account gets no link; its owner can request one later. `email` must be canonical. Return the account's id,
    or None if it already existed.
    """
    return sign_up_hashed(email, make_password(password), language=language, network=network)


def sign_up_hashed(
    email: str, hashed_password: str, *, language: str, network: str | None, instead_of: int | None = None
) -> int | None:
    """Sign up with a hashed password, and delete `instead_of`, the account that this browser made with a mistyped address."""
    with transaction.atomic():
        if instead_of is not None:
            verification.withdraw(instead_of)
        user, is_new = _find_or_create(email, hashed_password, language)
        if throttling.allows_mail(PURPOSE, email, network):
            _mail_to(user, is_new=is_new)
            # Not earlier: when a request fails and is repeated, its own mail must not count.
            transaction.on_commit(lambda: throttling.count_mail(PURPOSE, email, network), robust=True)
    if is_new:
        log.info("signed up", user=user.pk)
    return user.pk if is_new else None


def resend_link(email: str) -> None:
    """Resend the link of an unverified account. The worker looks it up, so the response time does not
    reveal whether it is known."""
    outbox.enqueue(VerifyAddressAgain(email))


def _find_or_create(email: str, hashed_password: str, language: str) -> tuple[User, bool]:
    """Return the user with this address, locked, and whether it is new.

    ON CONFLICT DO NOTHING avoids an IntegrityError: PostgreSQL logs a failing statement, and this one contains the
    address and the hash.
    """
    for _ in range(10):  # the account may be deleted between the two statements
        new = User(email=email, password=hashed_password, language=language)
        User.objects.bulk_create([new], ignore_conflicts=True)
        user = User.objects.select_for_update().filter(email=email).first()
        if user is not None:
            return (
                user,
                user.password == hashed_password,
            )  # equal only if this call created it: each hash has its own salt
    raise OperationalError("the account is deleted and created again faster than it can be read")


def _mail_to(user: User, *, is_new: bool) -> None:
    """Enqueue the mail for the owner of the address, with as many statements for a verified account as for a new one.

    The lock on the user and the key prevent duplicates when several requests come at once.
    """
    delay = timedelta(seconds=settings.VERIFICATION_DELAY)
    lately = verification.was_begun_lately(user)
    if user.has_verified_email:
        verification.supersede(user)
        user.email_verifications.exists()
        outbox.enqueue(AccountExists(user), key=f"account-exists:{user.pk}", delay=delay)
    elif is_new or not lately:
        link = verification.begin(user)
        outbox.enqueue(VerifyAddress(link), key=f"verify:{link.pk}", delay=delay)
