"""Reset a forgotten password, and change a known one."""

import structlog
from django.db import transaction
from django.utils import timezone

from accounts import email_change, links, verification
from accounts.emails import PasswordChanged, ResetPassword
from accounts.models import User
from accounts.sessions import end_sessions
from mailer import outbox

log = structlog.get_logger("accounts")


def request_reset(email: str) -> None:
    """Mail a link to the account with this address. The worker looks it up, so known and unknown addresses take equally
    long here."""
    outbox.enqueue(ResetPassword(email))


def reset(user_id: int, token: str, password: str) -> bool:
    """Give the account a new password. Return False if the token was used; of concurrent calls one succeeds.

    Reading the mail proves ownership: the address becomes verified, and every session, open request and link ends.
    """
    with transaction.atomic():
        user = User.objects.select_for_update().filter(pk=user_id, is_active=True).first()
        if user is None or not links.reset_tokens.check_token(user, token):
            return False
        user.set_password(password)
        user.email_verified_at = user.email_verified_at or timezone.now()
        user.was_verified = True
        user.save(update_fields=["password", "email_verified_at", "was_verified"])
        _end_access(user)
    log.info("password reset", user=user.pk)
    return True


def change(user: User, password: str, *, session_key: str | None) -> bool:
    """Give the account a new password and end every session except the one with this key.

    Return False if the password was reset since the caller checked the old one.
    """
    with transaction.atomic():
        locked = User.objects.lock_unchanged(user)
        if locked is None:
            return False
        locked.set_password(password)
        locked.save(update_fields=["password"])
        _end_access(locked, but=session_key)
    log.info("password changed", user=user.pk)
    return True


def _end_access(user: User, *, but: str | None = None) -> None:
    end_sessions(user, except_key=but)
    email_change.stop_all(user)
    verification.supersede(user)
    outbox.enqueue(PasswordChanged(user))
