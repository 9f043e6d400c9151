"""Addresses that are not written to any more."""

from collections.abc import Collection

from mailer.models import Message, Suppression


def suppress(address: str, reason: str, message: Message) -> None:
    """Stops mail to an address that this message went to, because its server says that there is no such address."""
    Suppression.objects.get_or_create(address=address.lower(), defaults={"reason": reason, "message": message})


def suppressed(addresses: Collection[str]) -> set[str]:
    """Those of the addresses that get no mail."""
    given = {address.lower(): address for address in addresses}
    found = Suppression.objects.filter(address__in=given).values_list("address", flat=True) if given else ()
    return {given[address] for address in found}


def reason_against(address: str) -> str | None:
    """Why this address gets no mail, or None if it may get it."""
    return Suppression.objects.filter(address=address.lower()).values_list("reason", flat=True).first()
