"""Signing up, and asking for the link once more. Neither tells a stranger whether an address is known."""

from datetime import timedelta

import structlog
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import transaction

from accounts import verification
from accounts.emails import AccountExists, VerifyAddress
from accounts.models import User
from mailer import outbox

log = structlog.get_logger("accounts")


def sign_up(email: str, password: str, *, language: str) -> None:
    """Creates the account and enqueues the mail with its link, in one transaction: both happen, or neither.

    A known address gets a mail that says so, or, while it is not verified, a new link; the password is not taken over.
    `email` is in canonical form.
    """
    hashed = make_password(password)  # in every case, so that a known address does not answer faster
    with transaction.atomic():
        user, is_new = _find_or_create(email, hashed, language)
        if user.is_verified:
            # one mail a minute at the most, however often somebody tries
            outbox.enqueue(AccountExists(user), key=f"account-exists:{user.pk}", delay=verification.PAUSE)
        elif is_new or not verification.was_begun_lately(user):
            _send_link(user, delay=timedelta(seconds=settings.VERIFICATION_DELAY))
    if is_new:
        log.info("signed up", user=user.pk)


def resend_link(email: str) -> None:
    """Sends a new link to an account that waits for one; does nothing for an unknown, verified or deactivated one."""
    with transaction.atomic():
        user = User.objects.select_for_update().filter(email=email, email_verified_at=None, is_active=True).first()
        if user and not verification.was_begun_lately(user):
            _send_link(user, delay=timedelta(0))


def _find_or_create(email: str, hashed_password: str, language: str) -> tuple[User, bool]:
    """The user with this address, locked, and whether it is new.

    ON CONFLICT DO NOTHING instead of an IntegrityError: PostgreSQL writes a statement that fails into its log, and this
    one holds the address and the hash.
    """
    User.objects.bulk_create([User(email=email, password=hashed_password, language=language)], ignore_conflicts=True)
    user = User.objects.select_for_update().get(email=email)
    return user, user.password == hashed_password  # the salt makes it ours


def _send_link(user: User, *, delay: timedelta) -> None:
    outbox.enqueue(VerifyAddress(verification.begin(user)), delay=delay)
