"""The values that one step of the pipeline passes to the next."""

from dataclasses import dataclass
from datetime import datetime

from django.core.mail import EmailMessage

from mailer.models import State


@dataclass(frozen=True, slots=True)
class Transport:
    """The transport that a message may use now. `probing` is the end of its pause if this message is to probe it."""

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
    """The name of its stream. Recipients who unsubscribed from it do not get the message."""
    exclude: frozenset[str] = frozenset()
    """Of several recipients, those who were answered in an earlier attempt or are suppressed."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message that will not be transmitted, with the reason."""

    state: State
    reason: str
