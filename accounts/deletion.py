"""Delete accounts: by their owners, or because they were never verified."""

from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import moving_window, verification
from accounts.emails import AccountDeleted
from accounts.models import EmailChange, EmailVerification, User
from accounts.sessions import Session
from mailer import outbox

log = structlog.get_logger("accounts")

UNVERIFIED_KEPT_FOR = timedelta(days=7)
"""The age at which an account that was never verified is deleted."""
LINKS_KEPT_FOR = timedelta(days=30)
"""How long the row of an expired link is kept."""
BATCH = 500


def delete(user: User) -> bool:
    """Delete the account and its rows, cancel its unsent mail, and send a last e-mail.

    Return False if the account is deleted, or its password was reset since the caller checked it.
    """
    with transaction.atomic():
        locked = User.objects.lock_unchanged(user)
        if locked is None:
            return False
        farewell = AccountDeleted(locked.email, locked.name, locked.language, locked.time_zone)
        outbox.cancel_all(outbox.messages_of(locked), reason="the account was deleted")
        locked.delete()
        outbox.enqueue(farewell)
    log.info("account deleted", user=user.pk)
    return True


def purge() -> int:
    """Delete accounts that were never verified, and expired links, sessions and windows. Return the number of rows."""
    now = timezone.now()
    over = Q(expires_at__lt=now - LINKS_KEPT_FOR)
    deleted = {
        "unverified": _purge_unverified(),
        "verifications": EmailVerification.objects.filter(over).delete()[0],
        "changes": EmailChange.objects.filter(over).delete()[0],
        "sessions": Session.objects.filter(expire_date__lt=now).delete()[0],
        "windows": moving_window.purge(),
    }
    log.info("accounts purged", **deleted)
    return sum(deleted.values())


def _purge_unverified() -> int:
    never_verified = User.objects.filter(
        verification.NEVER_VERIFIED, date_joined__lt=timezone.now() - UNVERIFIED_KEPT_FOR
    )
    purged = 0
    while batch := list(never_verified.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        with transaction.atomic():
            locked = never_verified.select_for_update(skip_locked=True).filter(pk__in=batch)
            deleted = [user.pk for user in locked]
            User.objects.filter(pk__in=deleted).delete()
        purged += len(deleted)
        if len(deleted) < len(batch):
            break
    return purged
