"""The outcomes of an attempt. Every answer of a transport becomes one of them; `mailer.delivery` decides what follows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

ENHANCED_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\b")
NO_SUCH_ADDRESS = frozenset({"5.1.1", "5.1.10"})
"""The recipient does not exist (RFC 3463, 3.2), or its domain accepts no mail (RFC 7505)."""

LONGEST_PAUSE = timedelta(days=1)
"""A server that asks for a longer pause gets this one."""


class Phase(StrEnum):
    """The step of a conversation that was answered. Nothing before the dot leaves it unknown whether a mail was accepted."""

    CONNECT = "connect"
    """Name resolution, connection, greeting, EHLO, TLS."""
    LOGIN = "login"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    """The DATA command and the octets up to the final dot."""
    DOT = "dot"
    """The final dot, or a request to a provider's API."""


def status_of(text: str) -> str:
    """Return the enhanced status at the beginning of a reply (RFC 3463), such as "5.1.1"; empty if it has none."""
    found = ENHANCED_STATUS.match(text)
    return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class TransientRefusal:
    """Not accepted for now: a 4xx reply after MAIL, HTTP 429."""

    code: str
    text: str
    phase: Phase = Phase.DOT
    retry_after: timedelta | None = None
    """The pause that the server asked for."""
    refused: Mapping[str, "PermanentRefusal"] = field(default_factory=dict)
    """Of several recipients, those that were refused for good before."""


@dataclass(frozen=True, slots=True)
class PermanentRefusal:
    """Not accepted, and the server says that a retry will not help: a 5xx reply, or a message that cannot be transmitted."""

    code: str
    text: str
    phase: Phase = Phase.DOT
    address_unknown: bool = False
    """The server says that the address of the recipient does not exist."""
    refused: Mapping[str, "PermanentRefusal"] = field(default_factory=dict)
    """Of several recipients, those that were refused one by one."""


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
    """Not accepted, and no answer is about this message: no connection, a refused login, a connection that broke."""

    code: str
    text: str
    phase: Phase = Phase.CONNECT
    misconfigured: bool = False
    """A person has to change the configuration."""
    refused: Mapping[str, PermanentRefusal] = field(default_factory=dict)
    """Of several recipients, those that were refused for good before."""


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """The payload was sent and no answer was seen. The message may have been accepted."""

    text: str
    code: str = ""
    refused: Mapping[str, PermanentRefusal] = field(default_factory=dict)
    """Of several recipients, those that were refused for good before the payload was sent."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker itself stopped before the final dot: nothing was sent. The text says why."""

    text: str
    code: str = ""
    refused: Mapping[str, PermanentRefusal] = field(default_factory=dict)
    """Of several recipients, those that were refused for good before."""


class Stop(Exception):
    """Raised by the guard of a transmission: it must not be completed. The text is the reason, for the operator."""


@dataclass(frozen=True, slots=True)
class Busy:
    """No attempt: the server allows no more connections now, and those that it allows are in use. It is not down."""

    text: str = ""


class Unsendable(ValueError):
    """The message cannot be sent as it is, and nothing was transmitted. The text is for the operator and quotes nothing."""


Refusal = TransientRefusal | PermanentRefusal | TransportDown | OutcomeUnknown
Outcome = Accepted | Refusal | Interrupted
"""Answers of a transport, and `Interrupted`."""


def answer_of(outcome: Outcome) -> str:
    """Return what the transport said, as operators read it."""
    return f"{outcome.code} {outcome.text}".strip()
