"""Count wrong passwords and alert the account's owner."""

from typing import Any

import structlog
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone

from accounts import devices, throttling
from accounts.addresses import canonical
from accounts.emails import LogInAlert
from accounts.moving_window import Count
from accounts.network import UNKNOWN, network_of, widened
from mailer import outbox

log = structlog.get_logger("accounts")


@receiver(user_login_failed)
def count_failed_log_in(*, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """Count a failed log-in, for known and unknown addresses alike. The worker looks the account up."""
    try:
        address = canonical(str(credentials.get("username", "")))
    except ValidationError:
        return  # not an address; often a password typed into the wrong field
    network = network_of(request) if request else UNKNOWN
    count_wrong_password(address, guesses(request, address), network)


def guesses(request: HttpRequest | None, address: str) -> list[Count]:
    """Return the counts for a password at a log-in page."""
    network = network_of(request) if request else UNKNOWN
    return throttling.guesses(address, known=devices.known(request, address), network=network)


def count_wrong_password(address: str, counts: list[Count], network: str) -> None:
    """Count a wrong password from any form, and enqueue an alert if there were many."""
    if throttling.note_wrong_password(address, counts):
        outbox.enqueue(LogInAlert(address, widened(network), timezone.now().isoformat()))
        log.warning("many wrong passwords for one account")
