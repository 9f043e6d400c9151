"""The names of time zones."""

from functools import cache
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError


@cache
def _names() -> dict[str, str]:
    """Every name by its form in lower case. Looking for them reads hundreds of files."""
    return {name.lower(): name for name in available_timezones()}


def known(name: str) -> str:
    """Return the name as it is written, `Asia/Bangkok` for `asia/bangkok`, or nothing if there is no such time zone."""
    return _names().get(name.strip().lower(), "")


def validated(name: str) -> str:
    """Return the same. Raises ValidationError if there is no such time zone; no name at all is one, the site's."""
    if name and not known(name):
        raise ValidationError({"time_zone": "There is no such time zone. Write it as in Asia/Bangkok."})
    return known(name)
