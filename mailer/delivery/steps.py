"""The values that one step of the pipeline passes to the next."""

from dataclasses import dataclass
from datetime import timedelta

from django.core.mail import EmailMessage

from mailer.models import State


@dataclass(frozen=True, slots=True)
class Postponed:
    """The message waits for its transport: for the end of a pause, a probe, a connection, or the rate limit.

    With a pause it waits alone, for so long, and others go on.
    """

    reason: str
    pause: timedelta | None = None


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


EXPIRED = Unsent(State.EXPIRED, "its deadline passed before it could be sent")


@dataclass(frozen=True, slots=True)
class Trouble:
    """A message that could not be prepared, and is worth another try."""

    reason: str
    patience: timedelta | None
    """How long it is tried again before it fails; None: until its deadline, or a release that can prepare it."""
