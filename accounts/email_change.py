"""Having another address: asked for by one who knows the password, confirmed at the new address, known at the old one, which
can stop it, and take it back for a week."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import structlog
from django.contrib.auth.hashers import check_password
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import links, verification
from accounts.emails import AddressChanged, AddressChangeRequested, ConfirmNewAddress, ResetPassword
from accounts.models import EmailChange, User
from accounts.sessions import end_sessions
from mailer import outbox

log = structlog.get_logger("accounts")


class ChangeState(StrEnum):
    """What can be said of a link that somebody followed."""

    OPEN = "open"
    DONE = "done"
    """By this very request: confirmed, stopped or taken back."""
    REVERSIBLE = "reversible"
    USED = "used"
    NOT_THE_OWNER = "wrong_password"
    """The link is open, and who followed it did not know the account's password."""
    STOPPED = "stopped"
    EXPIRED = "expired"
    TAKEN = "taken"
    """Another account has the new address meanwhile."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Change:
    """A link that somebody followed, and the addresses that it is about; none for one that is unknown."""

    state: ChangeState
    old_address: str = ""
    new_address: str = ""
    user_id: int | None = None


def request(user: User, new_address: str, *, may_mail: bool = True) -> bool:
    """Writes the wish down in the place of an earlier one, and mails both addresses. An address that another account has gets
    no mail, and the caller does not learn of it.

    False if the account lost the password that the caller checked: a reset came between the check and the lock.
    """
    with transaction.atomic():
        locked = User.objects.select_for_update().filter(pk=user.pk, password=user.password).first()
        if locked is None:
            return False
        user = locked
        stop_all(user)
        change = EmailChange.objects.create(user=user, old_address=user.email, new_address=new_address)
        if may_mail:
            outbox.enqueue(ConfirmNewAddress(change))
            outbox.enqueue(AddressChangeRequested(change))
    log.info("change of address requested", user=user.pk, change=str(change.pk))
    return True


def stop_all(user: User) -> None:
    """Ends the wish that is open, if there is one."""
    user.email_changes.filter(confirmed_at=None, stopped_at=None).update(stopped_at=timezone.now())


def look_to_confirm(change_id: UUID, code: str) -> Change:
    """Looks up the link that was sent to the new address, and changes nothing."""
    change = _find(change_id, code, links.CONFIRM_CHANGE)
    return _described(change, _state_to_confirm(change)) if change else Change(ChangeState.UNKNOWN)


def look_to_stop(change_id: UUID, code: str) -> Change:
    """Looks up the link that was sent to the old address, and changes nothing."""
    change = _find(change_id, code, links.STOP_CHANGE)
    return _described(change, _state_to_stop(change)) if change else Change(ChangeState.UNKNOWN)


def confirm(change_id: UUID, code: str, *, password: str | None) -> Change:
    """Gives the account its new address, once.

    `password` is the account's, and None only for a browser that is logged in to it: the new address may be mistyped, and
    whoever reads the mail there must not get the account by pressing a button.
    """
    with transaction.atomic():
        change = _lock(change_id, code, links.CONFIRM_CHANGE)
        if change is None or (state := _state_to_confirm(change)) is not ChangeState.OPEN:
            return look_to_confirm(change_id, code) if change is None else _described(change, state)
        if password is not None and not check_password(password, change.user.password):
            return _described(change, ChangeState.NOT_THE_OWNER)
        if not _move(change.user, change.new_address):
            return _described(change, ChangeState.TAKEN)
        EmailChange.objects.filter(pk=change.pk).update(confirmed_at=timezone.now())
        outbox.copy_unsubscribes(change.old_address, change.new_address)
        verification.supersede(change.user)
        outbox.enqueue(AddressChanged(change))
    log.info("address changed", user=change.user_id, change=str(change.pk))
    return _described(change, ChangeState.DONE)


def stop(change_id: UUID, code: str) -> Change:
    """Ends the wish, or takes the change back. The latter shuts everybody out: whoever changed it knew the password."""
    with transaction.atomic():
        change = _lock(change_id, code, links.STOP_CHANGE)
        if change is None or (state := _state_to_stop(change)) not in (ChangeState.OPEN, ChangeState.REVERSIBLE):
            return look_to_stop(change_id, code) if change is None else _described(change, state)
        if state is ChangeState.REVERSIBLE and not _give_back(change):
            return _described(change, ChangeState.TAKEN)
        EmailChange.objects.filter(pk=change.pk).update(stopped_at=timezone.now())
    log.info("change of address stopped", user=change.user_id, change=str(change.pk), was=str(state))
    return _described(change, ChangeState.DONE)


def _give_back(change: EmailChange) -> bool:
    """Back to the old address, however often it was changed since: whoever took it could else go one further."""
    user = change.user
    if not _move(user, change.old_address):
        return False
    user.set_unusable_password()
    user.save(update_fields=["password"])
    user.email_changes.filter(stopped_at=None, created_at__gt=change.created_at).update(stopped_at=timezone.now())
    end_sessions(user)
    outbox.enqueue(ResetPassword(change.old_address))
    return True


def _move(user: User, address: str) -> bool:
    """Gives the user a proven address. False if another account has got it since it was looked for."""
    squatter = User.objects.filter(verification.NEVER_VERIFIED, email=address).exclude(pk=user.pk).first()
    if squatter:  # the link in the mail to the address shows whose it is
        verification.withdraw(squatter.pk)
    try:
        with transaction.atomic():
            User.objects.filter(pk=user.pk).update(email=address, email_verified_at=timezone.now(), was_verified=True)
    except IntegrityError:
        return False
    return True


def _state_to_confirm(change: EmailChange) -> ChangeState:
    if change.confirmed_at:
        return ChangeState.USED
    if change.stopped_at or change.old_address != change.user.email:
        return ChangeState.STOPPED
    if not change.is_open:
        return ChangeState.EXPIRED
    taken = User.objects.filter(email=change.new_address).exclude(verification.NEVER_VERIFIED).exists()
    return ChangeState.TAKEN if taken else ChangeState.OPEN


def _state_to_stop(change: EmailChange) -> ChangeState:
    if change.stopped_at:
        return ChangeState.STOPPED
    if change.is_open:
        return ChangeState.OPEN
    if change.is_reversible:
        others = User.objects.filter(email=change.old_address).exclude(pk=change.user_id)
        return ChangeState.TAKEN if others.exclude(verification.NEVER_VERIFIED).exists() else ChangeState.REVERSIBLE
    return ChangeState.EXPIRED


def _described(change: EmailChange, state: ChangeState) -> Change:
    return Change(state, change.old_address, change.new_address, change.user_id)


def _find(change_id: UUID, code: str, salt: str) -> EmailChange | None:
    change = EmailChange.objects.select_related("user").filter(pk=change_id).first()
    return change if change and links.is_right(code, salt, links.row_of_change(change)) else None


def _lock(change_id: UUID, code: str, salt: str) -> EmailChange | None:
    """The change, with its user locked: the user first, as in every use case here; two orders of locks are a deadlock."""
    change = _find(change_id, code, salt)
    if change is None:
        return None
    user = User.objects.select_for_update().filter(pk=change.user_id).first()
    if user is None:
        return None  # its account has gone since, and the change with it
    change.user = user
    change.refresh_from_db(fields=["confirmed_at", "stopped_at"])
    return change
