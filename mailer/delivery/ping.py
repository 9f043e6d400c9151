"""Ask for a URL of an outside service once a minute. It rings when nobody does: when all of ours is dead, alarms included."""

import threading
from http.client import HTTPException
from urllib.request import urlopen

import structlog
from django.db.models.functions import Now, Trunc

from mailer.conf import options
from mailer.models import Worker

log = structlog.get_logger(__name__)

TIMEOUT = 5.0
"""Seconds for each step of the conversation."""

_asking = threading.Thread()


def is_due() -> bool:
    """Return whether a ping is wanted, and no sweep has begun in this minute, by the database's clock.

    Each sweep that is the first of its minute pings, so it does not matter how many workers there are.
    """
    this_minute = Worker.objects.filter(swept_at__gte=Trunc(Now(), "minute"))
    return bool(options().healthcheck_ping_url) and not this_minute.exists()


def begin() -> None:
    """Ping in a thread of its own, which nothing waits for, unless the last ping is still under way."""
    global _asking
    if not _asking.is_alive():
        _asking = threading.Thread(target=ping, args=[options().healthcheck_ping_url], name="ping", daemon=True)
        _asking.start()


def ping(url: str) -> None:
    """Ask for the URL. A failure is logged without the URL, which is a secret."""
    try:
        with urlopen(url, timeout=TIMEOUT):  # noqa: S310 - only http and https pass `conf.py`
            pass
    except (OSError, HTTPException, ValueError) as error:
        log.warning("the ping failed", error=type(error).__name__, status=getattr(error, "code", None))
