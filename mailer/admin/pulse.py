"""The pulse of a request: read from the database once a page."""

from django.http import HttpRequest

from mailer.delivery.pulse import Pulse, look


def pulse_of(request: HttpRequest) -> Pulse:
    """Return the pulse. It is read when a request first asks for it. Raises the database's errors."""
    if not hasattr(request, "mail_pulse"):
        request.mail_pulse = look()  # type: ignore[attr-defined]
    pulse: Pulse = request.mail_pulse  # type: ignore[attr-defined]
    return pulse
