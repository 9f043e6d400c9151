"""Forgetting a password and choosing another one."""

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
    """Has a link mailed to whoever has an account with this address. The worker finds out whether anybody has, so that the
    answer to an unknown address takes as long."""
    outbox.enqueue(ResetPassword(email))


def reset(user_id: int, token: str, password: str) -> bool:
    """Gives the account a new password; of several who hold the same token, one succeeds. False for a token that is spent.

    Who can read the mail owns the account: the address counts as verified, and whoever was in there before is out, with
    every session, wish and link.
    """
    with transaction.atomic():
        user = User.objects.select_for_update().filter(pk=user_id, is_active=True).first()
        if user is None or not links.reset_tokens.check_token(user, token):
            return False
        user.set_password(password)
        user.email_verified_at = user.email_verified_at or timezone.now()
        user.was_verified = True
        user.save(update_fields=["password", "email_verified_at", "was_verified"])
        _shut_everybody_out(user)
    log.info("password reset", user=user.pk)
    return True


def change(user: User, password: str, *, session_key: str | None) -> bool:
    """Gives the account a new password, and logs it out everywhere but in the session where it was changed.

    False if the account lost the password that the caller checked: a reset came between the check and the lock.
    """
    with transaction.atomic():
        locked = User.objects.select_for_update().filter(pk=user.pk, password=user.password).first()
        if locked is None:
            return False
        user = locked
        user.set_password(password)
        user.save(update_fields=["password"])
        _shut_everybody_out(user, but=session_key)
    log.info("password changed", user=user.pk)
    return True


def _shut_everybody_out(user: User, *, but: str | None = None) -> None:
    end_sessions(user, but=but)
    email_change.stop_all(user)
    verification.supersede(user)
    outbox.enqueue(PasswordChanged(user))
