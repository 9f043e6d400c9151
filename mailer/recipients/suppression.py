"""Addresses that get no more mail."""

from collections.abc import Collection, Iterable

from django.db.models import QuerySet
from django.utils.encoding import punycode

from mailer.models import Message, Suppression


def suppress(address: str, reason: str, message: Message | None = None, *, stream: str = "") -> None:
    """Stop all mail to an address, or the mail of one stream. `message` is the one to which a server gave the reason."""
    row = Suppression(address=address.lower(), stream=stream, reason=reason, message=message)
    # get_or_create() would fail if the existing row is deleted before it is read.
    Suppression.objects.bulk_create([row], ignore_conflicts=True)


def spellings(address: str) -> set[str]:
    """Return the forms of an address that the table may hold: as written, and with its domain in ASCII."""
    local, _, domain = address.lower().rpartition("@")
    return {address.lower(), f"{local}@{punycode(domain)}"}


def suppressed(addresses: Collection[str]) -> set[str]:
    """Return those of the addresses that are suppressed."""
    by_spelling = {address: spellings(address) for address in addresses}
    wanted = set().union(*by_spelling.values())
    found = set(_against(wanted, "").values_list("address", flat=True)) if wanted else set()
    return {address for address, spelled in by_spelling.items() if spelled & found}


def reason_for(address: str, stream: str = "") -> str | None:
    """Return why this address gets no mail (of this stream), or None if it may get mail."""
    return _against(spellings(address), stream).values_list("reason", flat=True).first()


def _against(addresses: Iterable[str], stream: str) -> QuerySet[Suppression]:
    return Suppression.objects.filter(address__in=addresses, stream__in={"", stream})
