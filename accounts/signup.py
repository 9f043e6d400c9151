"""Signing up, correcting a mistyped address, and asking for the link once more. None of it tells a stranger whether an
address is known."""

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
"""What the limits call this mail, and the one that brings the link once more."""


def sign_up(email: str, password: str, *, language: str, network: str | None = None) -> int | None:
    """Creates the account and enqueues the mail with its link, in one transaction: both happen, or neither.

    A known address gets a mail that says so, or, while it is not verified, a new link; the password is not taken over.
    Where a limit is reached there is an account and no link yet; whoever it belongs to can ask for one. `email` is in
    canonical form, `network` the one that a request comes from. Returns the account's id if it is a new one.
    """
    return sign_up_hashed(email, make_password(password), language=language, network=network)


def sign_up_hashed(email: str, hashed_password: str, *, language: str, network: str | None = None) -> int | None:
    """`sign_up` for one who typed the password a moment ago, and the address wrongly."""
    with transaction.atomic():
        user, is_new = _find_or_create(email, hashed_password, language)
        if throttling.allows_mail(PURPOSE, email, network):
            _mail_to(user, is_new=is_new)
            # Not before: a request that fails is made again at once, and must not find its own mail counted.
            transaction.on_commit(lambda: throttling.count_mail(PURPOSE, email, network), robust=True)
    if is_new:
        log.info("signed up", user=user.pk)
    return user.pk if is_new else None


def correct(
    email: str, hashed_password: str, *, instead_of: int | None, language: str, network: str | None
) -> int | None:
    """Signs up with another address in the place of one that was mistyped, whether its mail has left or not.

    `instead_of` is the account of the first one if this browser made it: it goes, with its link. Returns as `sign_up` does.
    """
    with transaction.atomic():
        if instead_of is not None:
            verification.withdraw(instead_of)
        return sign_up_hashed(email, hashed_password, language=language, network=network)


def resend_link(email: str) -> None:
    """Sends a new link to an account that waits for one. The worker finds out whether there is any, so that the answer to an
    unknown address takes as long."""
    outbox.enqueue(VerifyAddressAgain(email))


def _find_or_create(email: str, hashed_password: str, language: str) -> tuple[User, bool]:
    """The user with this address, locked, and whether it is new.

    ON CONFLICT DO NOTHING instead of an IntegrityError: PostgreSQL writes a statement that fails into its log, and this
    one holds the address and the hash.
    """
    for _ in range(10):  # it may be deleted between the two statements
        new = User(email=email, password=hashed_password, language=language)
        User.objects.bulk_create([new], ignore_conflicts=True)
        user = User.objects.select_for_update().filter(email=email).first()
        if user is not None:
            return user, user.password == hashed_password  # the salt makes it ours
    raise OperationalError("an account is deleted and made again faster than it can be read")


def _mail_to(user: User, *, is_new: bool) -> None:
    """Enqueues what the owner of the address is to get; the same number of statements for a new and for a verified one.

    The row of the link, under the lock, and the key see to it that of many who ask at the same time one is heard.
    """
    delay = timedelta(seconds=settings.VERIFICATION_DELAY)
    lately = verification.was_begun_lately(user)
    if user.is_verified:
        verification.supersede(user)
        user.email_verifications.exists()
        outbox.enqueue(AccountExists(user), key=f"account-exists:{user.pk}", delay=delay)
    elif is_new or not lately:
        link = verification.begin(user)
        outbox.enqueue(VerifyAddress(link), key=f"verify:{link.pk}", delay=delay)
