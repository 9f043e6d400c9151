"""Addresses that are not written to any more."""

from mailer.models import Message, Suppression


def suppress(message: Message, reason: str) -> None:
    """Stops mail to the address that this message went to, because its server says that there is no such address."""
    Suppression.objects.get_or_create(
        address=message.recipient.lower(), defaults={"reason": reason, "message": message}
    )


def reason_against(address: str) -> str | None:
    """Why this address gets no mail, or None if it may get it."""
    return Suppression.objects.filter(address=address.lower()).values_list("reason", flat=True).first()
