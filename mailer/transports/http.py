"""What HTTP answers of providers and token endpoints have in common."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from mailer.outcomes import LONGEST_PAUSE


def asked_pause(headers: Mapping[str, str]) -> timedelta | None:
    """Return Retry-After, in seconds or as a date (RFC 9110, 10.2.3), at most a day; None if it is missing or broken."""
    value = headers.get("Retry-After", "")
    try:
        seconds = (
            float(value) if value.isdecimal() else (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError, OverflowError):
        return None
    return timedelta(seconds=min(max(seconds, 0.0), LONGEST_PAUSE.total_seconds()))
