"""Sign up, correct a mistyped address, and resend the link. Nothing here reveals whether an address is known."""

from datetime import timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import OperationalError, transaction

from accounts import verification
from accounts.emails import AccountExists, VerifyAddress, VerifyAddressAgain
from accounts.models import User
from mailer import outbox

log = structlog.get_logger("accounts")


def sign_up(email: str, password: str, *, language: str) -> int | None:
    """Create the account and enqueue the mail with its link, in one transaction.

    A known address gets a mail that says so or, while it is not verified, a new link; its password is kept. `email` must be
    canonical. Return the account's id, or None if it already existed.
    """
    return sign_up_hashed(email, make_password(password), language=language)


def sign_up_hashed(
    email: str, hashed_password: str, *, language: str, browser: UUID | None = None, instead_of: UUID | None = None
) -> int | None:
    """Sign up with a hashed password, and end the link of `instead_of`, a sign-up of this browser with a mistyped address.

    `browser` names this sign-up in the session of the browser that made it.

    The account with the mistyped address stays, without a link, until the purge: if it were deleted here, the time would
    reveal whether there was one, and another person may have signed up with that address since.
    """
    with transaction.atomic():
        user, is_new = _find_or_create(email, hashed_password, language)
        # As many statements for a known account as for a new one.
        mail: VerifyAddress | AccountExists | VerifyAddressAgain
        if is_new:
            mail = VerifyAddress(verification.begin_first(user, sign_up=browser))
        else:
            verification.share(user)
            mail = AccountExists(user) if user.has_verified_email else VerifyAddressAgain.to(user)
        outbox.enqueue(mail, delay=timedelta(seconds=settings.VERIFICATION_DELAY))
        if instead_of is not None:
            verification.end_link_of(instead_of)
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
            return user, (user.date_joined, user.password) == (new.date_joined, new.password)
    raise OperationalError("the account was deleted again and again while it was read")
