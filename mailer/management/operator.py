"""What the commands for operators have in common: how they fail, and how they read durations and times."""

import re
from argparse import ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Now
from django.utils import timezone

from mailer.addresses import mailbox

UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
NO_ANSWER = 2
"""The exit code if the database does not answer."""


class OperatorCommand(BaseCommand):
    """A command that works while one kind of e-mail is broken, and says in a sentence that the database is away."""

    requires_system_checks = ()

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command. Raises CommandError instead of the database's errors, unless --traceback is given."""
        try:
            return super().execute(*args, **options)
        except Error as error:
            if options.get("traceback"):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CommandError(f"The database does not answer: {reason}", returncode=NO_ANSWER) from None


def duration(text: str) -> timedelta:
    """Convert `90s`, `30m`, `2h` or `7d`, for argparse."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text.strip())
    if not found:
        raise ArgumentTypeError(f"{text!r} is not a duration; write 90s, 30m, 2h or 7d")
    return int(found[1]) * UNITS[found[2]]


def moment(text: str) -> datetime | CombinedExpression:
    """Convert an ISO date or time, or a duration before now, for argparse. Without a zone it is in the site's TIME_ZONE."""
    try:
        given = datetime.fromisoformat(text.strip())
        return given if given.tzinfo else timezone.make_aware(given)
    except (ValueError, OverflowError):
        pass
    try:
        return Now() - duration(text)
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"{text!r} is not a time; write 2h for two hours ago, 2026-11-28 or 2026-11-28T14:30"
        ) from None


def whole_address(text: str) -> str:
    """Check an address, for argparse: a part of one would concern other persons too."""
    if mailbox(text) is None:
        raise ArgumentTypeError(f"{text!r} is not an address; write it whole, as in ann@example.com")
    return text


def words(text: str) -> str:
    """Check a text, for argparse: an empty one, from a variable that is not set, would choose everything."""
    if not text.strip():
        raise ArgumentTypeError("it is empty")
    return text


def number_of_a_message(text: str) -> int:
    """Convert the number of a message, for argparse."""
    digits = text.removeprefix("#")
    if not re.fullmatch(r"[0-9]{1,18}", digits):
        raise ArgumentTypeError(f"{text!r} is not the number of a message")
    return int(digits)
