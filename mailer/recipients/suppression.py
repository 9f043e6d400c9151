"""Addresses that get no more mail. The model's field stores and compares them in one form: `addresses.canonical`.

The row of an address that was erased has a keyed hash instead of it, so that the address still gets no mail. It is found as
long as its key is in SECRET_KEY or SECRET_KEY_FALLBACKS.
"""

from collections.abc import Collection
from hashlib import blake2b

import structlog
from django.conf import settings
from django.db.models import QuerySet

from mailer.addresses import canonical
from mailer.models import ALL_STREAMS, Cause, Message, Suppression

log = structlog.get_logger(__name__)

PURPOSE = b"mailer.erased"
"""Separates this key from other keys that are derived from SECRET_KEY (BLAKE2 personalisation, RFC 7693, 2.8)."""
UNREACHABLE = (Cause.BOUNCE, Cause.BOUNCES)
"""The causes that a mail which arrives disproves."""
NO_DOMAIN = "@erased.invalid"
"""The end of a hash that stands for an address. No address can have this domain (RFC 2606, 2)."""


def suppress(
    address: str,
    reason: str,
    message: Message | None = None,
    *,
    stream: str = "",
    cause: Cause = Cause.BOUNCE,
    source: str = "",
) -> None:
    """Stop all mail to an address, or the mail of one stream. A row that is there stays as it is.

    But what a person wants replaces what a mail that arrives would disprove. `message` is the one to which a server gave
    the reason, and `source` names that server's transport, or who says so.
    """
    row = Suppression(address=address, stream=stream, reason=reason, message=message, cause=cause, source=source)
    # get_or_create() would fail if the existing row is deleted before it is read.
    Suppression.objects.bulk_create([row], ignore_conflicts=True)
    if cause not in UNREACHABLE:
        disprovable = Suppression.objects.filter(address=address, stream=stream, cause__in=UNREACHABLE)
        disprovable.update(reason=reason, message=message, cause=cause, source=source)


def suppressed(addresses: Collection[str]) -> set[str]:
    """Return those of the addresses that are suppressed."""
    forms = {address: stored_forms(address) for address in addresses}
    found = set(rows_of(*addresses).filter(stream="").values_list("address", flat=True)) if forms else set()
    return {address for address, its_forms in forms.items() if not found.isdisjoint(its_forms)}


def reason_for(address: str, stream: str = "") -> str | None:
    """Return why this address gets no mail (of this stream), or None if it may get mail."""
    return rows_of(address).filter(stream__in=streams_that_stop(stream)).values_list("reason", flat=True).first()


def cause_for(address: str) -> Cause | None:
    """Return why this address gets no mail at all, or None if it gets mail."""
    row = rows_of(address).filter(stream="").first()
    return Cause(row.cause) if row else None


def has_arrived(address: str) -> None:
    """Forget that mail to the address came back: its owner followed a link that was mailed to it."""
    if rows_of(address).filter(stream="", cause__in=UNREACHABLE).delete()[0]:
        log.info("an address gets mail again, because its owner followed a link in a mail to it")


def streams_that_stop(stream: str) -> list[str]:
    """Return the streams of those rows that stop mail of this stream, or mail that belongs to none."""
    return ["", stream, ALL_STREAMS] if stream else [""]


def rows_of(*addresses: str) -> QuerySet[Suppression]:
    """Return the rows that stop mail to these addresses, or mail of a stream; also those of erased ones."""
    return Suppression.objects.filter(address__in=[form for address in addresses for form in stored_forms(address)])


def stored_forms(address: str) -> list[str]:
    """Return the forms in which a row may have the address: as it is compared, and as a hash by each key."""
    form = canonical(address)
    return [form, *(_hash(form, key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))]


def erase(address: str) -> int:
    """Replace the address by its hash in its rows, so that it still gets no mail. Return the number of rows."""
    rows = Suppression.objects.filter(address=address)
    hashed = _hash(canonical(address), settings.SECRET_KEY)
    reason = "suppressed before the address was erased"
    kept = [
        Suppression(address=hashed, stream=r.stream, cause=r.cause, created_at=r.created_at, reason=reason)
        for r in rows
    ]
    Suppression.objects.bulk_create(kept, ignore_conflicts=True)
    rows.delete()
    return len(kept)


def _hash(form: str, key: str) -> str:
    secret = blake2b(key.encode(), person=PURPOSE).digest()
    return blake2b(form.encode(), key=secret, digest_size=32, person=PURPOSE).hexdigest() + NO_DOMAIN
