"""One text to everybody who has an account and has not left the news."""

from collections.abc import Callable

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from accounts.emails import NEWS, Announce
from accounts.models import Announcement, User
from mailer import outbox
from mailer.recipients import subscriptions


class AlreadyAnnounced(Exception):
    """The same text was announced before; `args[0]` is that announcement."""


def everybody(language: str = "") -> "QuerySet[User]":
    """Those whom an announcement in this language (all if empty) is for: active accounts with a verified address."""
    users = User.objects.filter(is_active=True).exclude(email_verified_at=None)
    return users.filter(language=language) if language else users


def readers(language: str = "") -> "QuerySet[User]":
    """Those of them who get it: who has not left the news, and whose address is not suppressed."""
    return subscriptions.subscribed(everybody(language), NEWS)


def announce(
    subject: str,
    body: str,
    *,
    language: str = "",
    again: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Announcement:
    """Enqueues a mail to each of the readers, all in one transaction or none, and calls `progress` with how many more.

    Raises AlreadyAnnounced if the same subject and body were announced before, in whatever language, unless `again`. The
    row of the announcement sees to that, which is written in the same transaction: a command that is repeated, or runs
    twice at the same moment, writes to nobody twice.
    """
    with transaction.atomic():
        announcement = _write_down(Announcement(subject=subject, body=body, language=language), again=again)
        # By the database's cursor, so that a table of any size passes through in small pieces.
        users = readers(language).order_by("pk").iterator(chunk_size=outbox.BATCH)
        announcement.readers = outbox.enqueue_many((Announce(announcement, user) for user in users), progress=progress)
        announcement.save(update_fields=["readers"])
    return announcement


def earlier(subject: str, body: str) -> Announcement | None:
    """The newest announcement of the same text."""
    return Announcement.objects.filter(subject=subject, body=body).first()


def _write_down(announcement: Announcement, *, again: bool) -> Announcement:
    if again:
        announcement.is_repeat = earlier(announcement.subject, announcement.body) is not None
    try:
        with transaction.atomic():
            announcement.save(force_insert=True)
    except IntegrityError:
        raise AlreadyAnnounced(earlier(announcement.subject, announcement.body)) from None
    return announcement
