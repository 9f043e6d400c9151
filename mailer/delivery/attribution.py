"""Decide whose fault a refusal is: the message's, the rate's, the transport's or the account's.

A pure function over the refusal and what the transport was heard to say lately. Code and status decide where RFC 5321 and
RFC 3463 say enough, known words where a provider has its own (`known_replies`), and evidence everywhere else:

- it is the message's if another message got through the same transport after it was refused, and it is refused again;
- it is the transport's if several messages that have nothing else in common get the same answer, and nothing passes any more;
- otherwise it is not known yet, and the message is tried again. One more try costs little; a mail that failed for nothing
  costs much, and so does a transport that stands still for one message.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from mailer import known_replies
from mailer.delivery.evidence import BURST, WORKING, Evidence, Heard, Refused
from mailer.known_replies import NAMES_SENDER, UNKNOWN_USER, About
from mailer.outcomes import LONGEST_PAUSE, PermanentRefusal, Phase, TransientRefusal, status_of

REFILL = timedelta(hours=1)
"""The shortest pause after a quota or a suspension, unless the server named a time."""
FULL_MAILBOX = timedelta(days=1)
"""How long a mailbox may be full, though the server says that a retry will not help (552 5.2.2)."""
NOT_AGAIN = timedelta(0)

_PAUSE = re.compile(r"\b(?:in|after) (\d{1,6}(?:\.\d{1,6})?) ?(second|minute|hour)s?\b", re.IGNORECASE)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
_ABOUT_MESSAGE = re.compile(r"[45]\.(1\.([0-69]|10)|2\.\d+|3\.[34]|4\.[134679]|6\.\d+)|4\.5\.3")
"""RFC 3463: addresses (but not 1.7 and 1.8, the sender's), mailboxes, size and features, routes of a domain, content, and too
many recipients, which is never for good (RFC 5321, 4.5.3.1.10)."""
_ABOUT_SYSTEM = re.compile(r"[45]\.(3\.\d+|4\.5)")
"""RFC 3463, 3.4: the mail system's state; 3.5: congestion."""


class Fault(StrEnum):
    """Whose fault a refusal is, and so what follows."""

    MESSAGE = "message"
    """The message's or its recipient's. It fails, or is tried again after a pause of its own; no other message is affected."""
    UNDECIDED = "undecided"
    """The message's, everyone's, or only this connection's: not known yet. The message is tried again after a pause of its
    own, also after a 5xx; the transport goes on, and what it says to the next messages decides."""
    RATE = "rate"
    """Too many messages in this time. The transport slows down (`pacing`); the message is due again, also after a 5xx."""
    CONNECTIONS = "connections"
    """Too many connections at a time, while others work. Nothing is paused: the message is due again, and the new connection
    is closed. If a claim was made already, the transport slows down."""
    TRANSPORT = "transport"
    """The server's. The transport pauses and the operator is told; the message is due again, also after a 5xx."""
    QUOTA = "quota"
    """The account's, which may send no more in this hour or day. The transport pauses for an hour at a time, or for as long as
    the server says; the message is due again, also after a 5xx."""
    ACCOUNT = "account"
    """The account's: a person has to correct it. The transport pauses for long, with an alarm; the message is due again, also
    after a 5xx."""


_FAULTS = {
    About.SESSION: Fault.UNDECIDED,
    About.RATE: Fault.RATE,
    About.CONNECTIONS: Fault.RATE,
    About.QUOTA: Fault.QUOTA,
    About.LOGIN: Fault.ACCOUNT,
    About.ACCOUNT: Fault.ACCOUNT,
}
"""Of known replies after MAIL. The others need evidence."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """Whose fault it is, and for how long."""

    fault: Fault
    patience: timedelta | None = None
    """How long the message is worth another try, from its first due time. None: as the policy says; zero: it has failed."""
    pause: timedelta | None = None
    """The shortest pause of what is at fault, if the server named one or a quota has to refill."""

    @property
    def is_final(self) -> bool:
        """Whether the message has failed."""
        return self.fault is Fault.MESSAGE and self.patience == NOT_AGAIN

    @property
    def is_transports(self) -> bool:
        """Whether it is no message's fault: the message stays due, and waits for the transport."""
        return self.fault not in (Fault.MESSAGE, Fault.UNDECIDED)


MESSAGE = Attribution(Fault.MESSAGE)


def attribute(refusal: Refused, heard: Sequence[Heard], *, message: int, domain: str) -> Attribution:
    """Return whose fault the refusal of this message is.

    `heard` has the answers of the same transport, in any order and without the refusal itself: the earlier ones to this
    message, and the newest to others. `domain` is its recipient's, as in Heard.
    """
    evidence = Evidence(refusal, heard, message, domain)
    about = known_replies.about(refusal.code, refusal.text)
    pause = _named_pause(refusal) or (REFILL if about in (About.QUOTA, About.ACCOUNT) else None)
    if refusal.phase in (Phase.CONNECT, Phase.LOGIN):
        verdict = Attribution(_before_mail(refusal, about, evidence))
    elif about in _FAULTS:
        verdict = Attribution(_FAULTS[about])
    elif isinstance(refusal, PermanentRefusal):
        verdict = _for_good(refusal, about, evidence)
    else:
        verdict = Attribution(_for_now(refusal, about, evidence))
    return replace(verdict, pause=pause)


def attribute_alone(refusal: Refused) -> Attribution:
    """Return whose fault a refusal is without other answers as evidence."""
    return attribute(refusal, (), message=0, domain="")


def _before_mail(refusal: Refused, about: About | None, evidence: Evidence) -> Fault:
    """Judge a refusal before MAIL, which no message can cause."""
    if about in (About.ACCOUNT, About.LOGIN, About.SENDER) or (
        refusal.phase is Phase.LOGIN and refusal.code.startswith("5")
    ):
        return Fault.ACCOUNT
    if about is About.QUOTA:
        return Fault.QUOTA
    is_full = about in (About.CONNECTIONS, About.RATE) or refusal.code == "421"
    return Fault.CONNECTIONS if is_full and evidence.last_accepted <= BURST else Fault.TRANSPORT


def _for_now(refusal: Refused, about: About | None, evidence: Evidence) -> Fault:
    """Judge a refusal for now, or a connection that broke, after MAIL."""
    status = status_of(refusal.text)
    if about is About.MESSAGE:
        return Fault.MESSAGE
    if refusal.code in ("421", ""):  # it broke the connection, and may break any that it is tried on
        return Fault.TRANSPORT if len(evidence.since_accepted) > 1 else Fault.MESSAGE
    if _ABOUT_MESSAGE.fullmatch(status):
        return Fault.MESSAGE
    is_storage = refusal.code == "452" and not status  # of the system (RFC 5321, 4.2.3)
    if about is About.SYSTEM or _ABOUT_SYSTEM.fullmatch(status) or is_storage:
        is_messages = evidence.is_own or (evidence.is_alone_for_long and len(evidence.since_accepted) == 1)
        return Fault.MESSAGE if is_messages and not evidence.is_shared else Fault.TRANSPORT
    if evidence.is_burst:
        return Fault.RATE if evidence.last_accepted <= WORKING else Fault.TRANSPORT
    return Fault.TRANSPORT if evidence.is_outage else Fault.MESSAGE


def _for_good(refusal: Refused, about: About | None, evidence: Evidence) -> Attribution:
    """Judge a refusal for good after MAIL."""
    if _is_full_mailbox(refusal):
        return Attribution(Fault.MESSAGE, FULL_MAILBOX)
    if about is About.MESSAGE or _is_about_message(refusal, about):
        return Attribution(Fault.MESSAGE, NOT_AGAIN)
    if evidence.is_shared:
        return Attribution(Fault.ACCOUNT if about is About.SENDER else Fault.TRANSPORT)
    if evidence.is_own:
        return Attribution(Fault.MESSAGE, NOT_AGAIN)
    if about is About.SENDER and not evidence.accepted:
        return Attribution(Fault.ACCOUNT)
    return Attribution(Fault.MESSAGE, NOT_AGAIN) if evidence.is_alone_for_long else Attribution(Fault.UNDECIDED)


def _is_full_mailbox(refusal: Refused) -> bool:
    status = status_of(refusal.text)
    return status == "5.2.2" or (refusal.code == "552" and not status and refusal.phase is Phase.RCPT)


def _is_about_message(refusal: Refused, about: About | None) -> bool:
    """Return whether code, status and phase say that it is this message: its recipient, its size, its content."""
    text, status = refusal.text[: known_replies.LONGEST], status_of(refusal.text)
    names_sender = refusal.phase is Phase.MAIL or about is About.SENDER or NAMES_SENDER.search(text) is not None
    if not refusal.code or (refusal.code == "552" and not status):
        return True  # a judgement of our own, before the conversation; too large (RFC 1870)
    if _ABOUT_MESSAGE.fullmatch(status) and not (names_sender and status.startswith("5.1.")):
        return True
    if names_sender or _ABOUT_SYSTEM.fullmatch(status):
        return False
    is_unknown = isinstance(refusal, PermanentRefusal) and refusal.address_unknown
    return is_unknown or refusal.phase is Phase.DOT or (not status and UNKNOWN_USER.search(text) is not None)


def _named_pause(refusal: Refused) -> timedelta | None:
    """Return the pause that the server asked for, in a header or in words, at most a day."""
    if isinstance(refusal, TransientRefusal) and refusal.retry_after is not None:
        return refusal.retry_after
    if found := _PAUSE.search(refusal.text[: known_replies.LONGEST]):
        return min(timedelta(seconds=float(found[1]) * _SECONDS[found[2].lower()]), LONGEST_PAUSE)
    return None
