"""Somebody mistypes a password, or guesses: it is counted, and the owner of the account hears of it."""

from typing import Any

import structlog
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils import timezone

from accounts import throttling
from accounts.addresses import canonical
from accounts.emails import LogInAlert
from accounts.network import UNKNOWN, network_of, rough
from mailer import outbox

log = structlog.get_logger("accounts")


@receiver(user_login_failed)
def note(*, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    """Counts a failed log-in, for known and unknown addresses alike; the worker finds out whether there is an owner."""
    try:
        address = canonical(str(credentials.get("username", "")))
    except ValidationError:
        return  # it is nobody's address: most often a password in the wrong field
    count(address, network_of(request) if request else UNKNOWN)


def count(address: str, network: str) -> None:
    """Counts a wrong password, wherever it was typed, and tells the owner of the account if there were many."""
    if throttling.note_wrong_password(address, network):
        outbox.enqueue(LogInAlert(address, rough(network), timezone.now().isoformat()))
        log.warning("many wrong passwords for one account")
