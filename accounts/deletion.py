"""The end of an account, by its owner's wish or because it was never verified."""

from datetime import timedelta

import structlog
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import throttling, verification
from accounts.emails import AccountDeleted
from accounts.models import EmailChange, EmailVerification, User
from accounts.sessions import Session
from mailer import outbox

log = structlog.get_logger("accounts")

UNVERIFIED_FOR = timedelta(days=7)
"""After that an account that was never verified goes."""
LINKS_FOR = timedelta(days=30)
"""After that the row of a link that works no more goes."""
BATCH = 500


def delete(user: User) -> bool:
    """Deletes the account with everything that hangs on it, cancels the mail that waits, and says farewell.

    False if the account is gone, or lost the password that the caller checked: a reset came between the check and the lock.
    """
    with transaction.atomic():
        locked = User.objects.select_for_update().filter(pk=user.pk, password=user.password).first()
        if locked is None:
            return False
        user = locked
        farewell = AccountDeleted(user.email, user.name, user.language, user.time_zone)
        outbox.cancel_all(outbox.messages_of(user), reason="the account was deleted")
        user_id = user.pk
        user.delete()
        outbox.enqueue(farewell)
    log.info("account deleted", user=user_id)
    return True


def purge() -> None:
    """Deletes accounts that were never verified, links that work no more, sessions and hits that are over."""
    now = timezone.now()
    over = Q(expires_at__lt=now - LINKS_FOR)
    log.info(
        "accounts purged",
        unverified=_purge_unverified(),
        verifications=EmailVerification.objects.filter(over).delete()[0],
        changes=EmailChange.objects.filter(over).delete()[0],
        sessions=Session.objects.filter(expire_date__lt=now).delete()[0],
        hits=throttling.purge(),
    )


def _purge_unverified() -> int:
    never_verified = User.objects.filter(verification.NEVER_VERIFIED, date_joined__lt=timezone.now() - UNVERIFIED_FOR)
    purged = 0
    while batch := list(never_verified.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        with transaction.atomic():
            locked = never_verified.select_for_update(skip_locked=True).filter(pk__in=batch)
            gone = [user.pk for user in locked]
            User.objects.filter(pk__in=gone).delete()
        purged += len(gone)
        if len(gone) < len(batch):
            break
    return purged
