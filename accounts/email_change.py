"""Change the address of an account.

The request needs the password. The new address confirms it. The old address can stop it, and undo it for a week.
"""

from dataclasses import replace
from uuid import UUID

import structlog
from django.contrib.auth.hashers import check_password
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts import links, verification
from accounts.emails import AddressChanged, AddressChangeRequested, ConfirmNewAddress, ResetPassword
from accounts.links import Link, LinkState
from accounts.models import VERIFICATION_LIFETIME, EmailChange, User
from accounts.sessions import end_sessions
from mailer import outbox

log = structlog.get_logger("accounts")


def request(user: User, new_address: str) -> bool:
    """Replace any open request with a new one, and mail both addresses.

    If another account has the new address, that address gets no mail, and the caller cannot tell. A second request for the
    same address mails the same links. Return False if the password was reset since the caller checked it.
    """
    with transaction.atomic():
        locked = User.objects.lock_unchanged(user)
        if locked is None:
            return False
        enough = timezone.now() + VERIFICATION_LIFETIME / 2
        same = {"old_address": locked.email, "new_address": new_address}
        change = _open(locked).filter(**same, expires_at__gt=enough).first()
        if change is None:
            stop_all(locked)
            change = EmailChange.objects.create(user=locked, **same)
        outbox.enqueue(ConfirmNewAddress(change))
        outbox.enqueue(AddressChangeRequested(change))
    log.info("change of address requested", user=user.pk, change=str(change.pk))
    return True


def stop_all(user: User) -> None:
    """Stop the user's open request."""
    _open(user).update(stopped_at=timezone.now())


def _open(user: User) -> QuerySet[EmailChange]:
    return user.email_changes.filter(confirmed_at=None, stopped_at=None)


def confirm_link(change_id: UUID, code: str) -> Link:
    """Look up the link that was sent to the new address. Change nothing."""
    return _to_confirm(links.find(EmailChange, change_id, code, links.CONFIRM_CHANGE))


def stop_link(change_id: UUID, code: str) -> Link:
    """Look up the link that was sent to the old address. Change nothing."""
    return _to_stop(links.find(EmailChange, change_id, code, links.STOP_CHANGE))


def confirm(change_id: UUID, code: str, *, password: str | None) -> Link:
    """Give the account its new address, once.

    `password` is the account's. It is None only for a browser that is logged in to it: the new address may be mistyped,
    and its owner must not get the account by pressing a button.
    """
    with transaction.atomic():
        change = _lock(change_id, code, links.CONFIRM_CHANGE)
        link = _to_confirm(change)
        if change is None or link.state is not LinkState.OPEN:
            return link
        if password is not None and not check_password(password, change.user.password):
            return replace(link, state=LinkState.NOT_THE_OWNER)
        if not _set_address(change.user, change.new_address):
            return replace(link, state=LinkState.TAKEN)
        change.confirmed_at = timezone.now()  # the deadline of the mail follows from it
        change.save(update_fields=["confirmed_at"])
        outbox.copy_unsubscribes(change.old_address, change.new_address)
        outbox.has_arrived(change.new_address)
        verification.supersede(change.user)
        outbox.enqueue(AddressChanged(change))
    log.info("address changed", user=change.user_id, change=str(change.pk))
    return replace(link, state=LinkState.DONE)


def stop(change_id: UUID, code: str) -> Link:
    """Stop an open request, or undo a confirmed one. Undoing ends every session: the request was made with the password."""
    with transaction.atomic():
        change = _lock(change_id, code, links.STOP_CHANGE)
        link = _to_stop(change)
        if change is None or link.state not in (LinkState.OPEN, LinkState.REVERSIBLE):
            return link
        if link.state is LinkState.REVERSIBLE and not _undo(change):
            return replace(link, state=LinkState.TAKEN)
        EmailChange.objects.filter(pk=change.pk).update(stopped_at=timezone.now())
    log.info("change of address stopped", user=change.user_id, change=str(change.pk), was=str(link.state))
    return replace(link, state=LinkState.DONE)


def _undo(change: EmailChange) -> bool:
    """Restore the old address, even after later changes: an attacker could change it twice to keep the account."""
    user = change.user
    if not _set_address(user, change.old_address):
        return False
    user.set_unusable_password()
    user.save(update_fields=["password"])
    user.email_changes.filter(stopped_at=None, created_at__gt=change.created_at).update(stopped_at=timezone.now())
    end_sessions(user)
    outbox.enqueue(ResetPassword(change.old_address, by_owner=True))
    return True


def _set_address(user: User, address: str) -> bool:
    """Give the user a proven address. Return False if another account has taken it."""
    unproven = User.objects.filter(verification.NEVER_VERIFIED, email=address).exclude(pk=user.pk).first()
    if unproven:  # the link in the mail to the address proves who owns it
        verification.withdraw(unproven.pk)
    try:
        with transaction.atomic():
            User.objects.filter(pk=user.pk).update(email=address, email_verified_at=timezone.now(), was_verified=True)
    except IntegrityError:
        return False
    return True


def _to_confirm(change: EmailChange | None) -> Link:
    if change is None:
        return Link(LinkState.UNKNOWN)
    if change.confirmed_at:
        state = LinkState.USED
    elif change.stopped_at or change.old_address != change.user.email:
        state = LinkState.STOPPED
    elif not change.is_open:
        state = LinkState.EXPIRED
    else:
        state = LinkState.TAKEN if verification.is_taken(change.new_address, change.user) else LinkState.OPEN
    return Link(state, change.user_id, change.old_address, change.new_address)


def _to_stop(change: EmailChange | None) -> Link:
    if change is None:
        return Link(LinkState.UNKNOWN)
    if change.stopped_at:
        state = LinkState.STOPPED
    elif change.is_open:
        state = LinkState.OPEN
    elif change.is_reversible:
        state = LinkState.TAKEN if verification.is_taken(change.old_address, change.user) else LinkState.REVERSIBLE
    else:
        state = LinkState.EXPIRED
    return Link(state, change.user_id, change.old_address, change.new_address)


def _lock(change_id: UUID, code: str, salt: str) -> EmailChange | None:
    """Find the change and lock its user first, as every use case does: two different orders could deadlock."""
    change = links.find(EmailChange, change_id, code, salt)
    if change is None:
        return None
    user = User.objects.select_for_update().filter(pk=change.user_id).first()
    if user is None:  # the account was deleted in between, and the change with it
        return None
    change.user = user
    change.refresh_from_db(fields=["confirmed_at", "stopped_at"])
    return change
