"""How an attempt to deliver can end: every transport's answer becomes one of these. What follows is decided elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class TransientRefusal:
    """Certainly not accepted, for a reason of this message that may pass: a 4xx reply, HTTP 429 or 500."""

    code: str
    text: str
    retry_after: timedelta | None = None
    """The pause that the server asked for."""
    refused: Mapping[str, "PermanentRefusal"] = field(default_factory=dict)
    """Of several recipients, those whom it refused for good."""


@dataclass(frozen=True, slots=True)
class PermanentRefusal:
    """Certainly not accepted, and asking again will not help: a 5xx reply, or a message that cannot be transmitted at all."""

    code: str
    text: str
    address_unknown: bool = False
    """The server says that there is no such address."""
    refused: Mapping[str, "PermanentRefusal"] = field(default_factory=dict)
    """Of several recipients, what was said about each."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server took responsibility for the message (RFC 5321, 4.2.5)."""

    code: str
    text: str
    recipients: tuple[str, ...] = ()
    """For whom it took it."""
    refused: Mapping[str, TransientRefusal | PermanentRefusal] = field(default_factory=dict)
    """Of several recipients, those for whom it did not."""


@dataclass(frozen=True, slots=True)
class TransportDown:
    """Certainly not accepted, for a reason that has nothing to do with this message: no connection, 421, a refused log-in."""

    code: str
    text: str
    misconfigured: bool = False
    """It will stay so until a person changes the configuration."""


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """The payload left and the answer was never seen. The message may have been accepted."""

    text: str
    code: str = ""


class Unsendable(ValueError):
    """The message itself cannot go this way, whatever the state of the server; nothing was handed over. The text is for the
    operator, and holds nothing of the message."""


Outcome = Accepted | TransientRefusal | PermanentRefusal | TransportDown | OutcomeUnknown
