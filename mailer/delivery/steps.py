"""What one step of the pipeline passes to the next."""

from dataclasses import dataclass
from datetime import datetime

from django.core.mail import EmailMessage

from mailer.models import State


@dataclass(frozen=True, slots=True)
class Transport:
    """The transport that a message may use now. With `probing`, the end of a pause: this message is to test it."""

    alias: str
    probing: datetime | None = None


@dataclass(frozen=True, slots=True)
class Postponed:
    """The message waits for its transport: for the end of a pause, a probe, or the rate limit."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A message that can be transmitted."""

    mail: EmailMessage
    recipient: str
    subject: str
    stream: str = ""
    """The name of its stream, whose unsubscribed recipients do not get it."""
    exclude: frozenset[str] = frozenset()
    """Of several recipients, those who had their answer in an earlier attempt, and those who are suppressed."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The message belongs to this worker until its lease ends."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message that will not be transmitted, and why."""

    state: State
    reason: str
