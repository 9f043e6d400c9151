"""Addresses that are not written to any more."""

from collections.abc import Collection, Iterable

from django.db.models import QuerySet
from django.utils.encoding import punycode

from mailer.models import Message, Suppression


def suppress(address: str, reason: str, message: Message) -> None:
    """Stops mail to an address that this message went to, because its server says that there is no such address."""
    row = Suppression(address=address.lower(), stream="", reason=reason, message=message)
    Suppression.objects.bulk_create([row], ignore_conflicts=True)


def spellings(address: str) -> set[str]:
    """How an address may stand in the table: as it was written, or as a server answers, its domain in ASCII."""
    local, _, domain = address.lower().rpartition("@")
    return {address.lower(), f"{local}@{punycode(domain)}"}


def suppressed(addresses: Collection[str]) -> set[str]:
    """Those of the addresses that get no mail."""
    by_spelling = {address: spellings(address) for address in addresses}
    wanted = set().union(*by_spelling.values())
    found = set(_against(wanted, "").values_list("address", flat=True)) if wanted else set()
    return {address for address, spelled in by_spelling.items() if spelled & found}


def reason_against(address: str, stream: str = "") -> str | None:
    """Why this address gets no mail, or none of this stream; None if it may get it."""
    return _against(spellings(address), stream).values_list("reason", flat=True).first()


def _against(addresses: Iterable[str], stream: str) -> QuerySet[Suppression]:
    return Suppression.objects.filter(address__in=addresses, stream__in={"", stream})
