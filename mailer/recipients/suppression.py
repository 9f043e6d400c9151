"""Addresses that get no more mail. The model's field stores and compares them in one form: `addresses.canonical`."""

from collections.abc import Collection, Iterable

from django.db.models import QuerySet

from mailer.addresses import canonical
from mailer.models import Message, Suppression


def suppress(address: str, reason: str, message: Message | None = None, *, stream: str = "") -> None:
    """Stop all mail to an address, or the mail of one stream. `message` is the one to which a server gave the reason."""
    row = Suppression(address=address, stream=stream, reason=reason, message=message)
    # get_or_create() would fail if the existing row is deleted before it is read.
    Suppression.objects.bulk_create([row], ignore_conflicts=True)


def suppressed(addresses: Collection[str]) -> set[str]:
    """Return those of the addresses that are suppressed."""
    forms = {address: canonical(address) for address in addresses}
    found = set(_against(forms.values(), "").values_list("address", flat=True)) if forms else set()
    return {address for address, form in forms.items() if form in found}


def reason_for(address: str, stream: str = "") -> str | None:
    """Return why this address gets no mail (of this stream), or None if it may get mail."""
    return _against([address], stream).values_list("reason", flat=True).first()


def _against(addresses: Iterable[str], stream: str) -> QuerySet[Suppression]:
    return Suppression.objects.filter(address__in=addresses, stream__in={"", stream})
