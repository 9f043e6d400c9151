"""The five outcomes of an attempt. Every answer of a transport becomes one of them; `delivery.settle` decides what follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class TransientRefusal:
    """Not accepted for now, because of this message: a 4xx reply, HTTP 429 or 500."""

    code: str
    text: str
    retry_after: timedelta | None = None
    """The pause that the server asked for."""
    refused: Mapping[str, "PermanentRefusal"] = field(default_factory=dict)
    """Of several recipients, those refused for good."""


@dataclass(frozen=True, slots=True)
class PermanentRefusal:
    """Not accepted, and a retry will not help: a 5xx reply, or a message that cannot be transmitted."""

    code: str
    text: str
    address_unknown: bool = False
    """The server says that the address does not exist."""
    refused: Mapping[str, "PermanentRefusal"] = field(default_factory=dict)
    """Of several recipients, the answer for each."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server took responsibility for the message (RFC 5321, 4.2.5)."""

    code: str
    text: str
    recipients: tuple[str, ...] = ()
    """The accepted recipients."""
    refused: Mapping[str, TransientRefusal | PermanentRefusal] = field(default_factory=dict)
    """Of several recipients, those that were refused."""


@dataclass(frozen=True, slots=True)
class TransportDown:
    """Not accepted, for a reason unrelated to this message: no connection, 421, a refused login."""

    code: str
    text: str
    misconfigured: bool = False
    """A person has to change the configuration."""


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """The payload was sent and no answer was seen. The message may have been accepted."""

    text: str
    code: str = ""


class Unsendable(ValueError):
    """This transport cannot send the message, and nothing was transmitted. The text is for the operator and quotes nothing."""


Refusal = TransientRefusal | PermanentRefusal | TransportDown | OutcomeUnknown
Outcome = Accepted | Refusal
