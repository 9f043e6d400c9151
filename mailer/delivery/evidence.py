"""What a transport said lately, as evidence of whose fault a refusal is. Pure functions over answers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from mailer.outcomes import PermanentRefusal, Phase, TransientRefusal, TransportDown, status_of

LATELY = 3600.0
"""Seconds. Older answers are no evidence. A hundred of the newest answers are enough, if this message's own are all there."""
BURST = 60.0
"""Seconds within which refusals for now of several messages show a rate that is too high."""
WORKING = 300.0
"""Seconds. A transport that accepted nothing for as long, while it refused all for now, is broken and not only too slow."""
SEVERAL = 3
"""Distinct messages that have nothing else in common."""
PER_REFUSAL = 5
"""Acceptances for each refusal, up to which the rate counts as too high. With more, it is the refused messages."""
ALONE = (4, 600.0)
"""The refusals, and the seconds since the first, after which one for good counts, though no other message is evidence."""
ALONE_BUT_WORKING = (3, 60.0)
"""The same if the transport accepted other messages lately."""

Refused = TransientRefusal | PermanentRefusal | TransportDown


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer of the transport, or a connection that broke. What was never transmitted is not among them."""

    message: int
    domain: str
    """Of the recipient, in lower case; empty if the message has several recipients."""
    phase: Phase
    code: str
    text: str
    """As it was stored: addresses may be masked."""
    is_accepted: bool
    seconds_ago: float
    """Since the answer."""
    seconds: float = 0.0
    """The duration of the conversation. An acceptance proves that the transport worked since it began."""


class Evidence:
    """What was heard about the same refusal: for this message, for others, and what was accepted between."""

    def __init__(self, refusal: Refused, heard: Sequence[Heard], message: int, domain: str) -> None:
        said = gist(refusal.code, refusal.text)
        lately = [answer for answer in heard if answer.seconds_ago <= LATELY]
        self.message, self.domain = message, domain or str(message)
        self.accepted = [answer for answer in lately if answer.is_accepted and answer.message != message]
        self.same = [answer for answer in lately if not answer.is_accepted and gist(answer.code, answer.text) == said]
        self.first = max((answer.seconds_ago for answer in self.same if answer.message == message), default=0.0)
        self.last_accepted = min((answer.seconds_ago for answer in self.accepted), default=inf)

    @property
    def is_own(self) -> bool:
        """Whether another message got through after this one was refused in the same way."""
        return any(answer.seconds_ago + answer.seconds < self.first for answer in self.accepted)

    @property
    def since_accepted(self) -> dict[int, str]:
        """The messages, with their domains, that were first refused in this way after the last acceptance.

        Those that had been refused before it have shown that they are refused while the transport works.
        """
        first = {self.message: self.first}
        domains = {self.message: self.domain}
        for answer in self.same:
            first[answer.message] = max(answer.seconds_ago, first.get(answer.message, 0.0))
            domains.setdefault(answer.message, answer.domain or str(answer.message))
        return {number: domains[number] for number, ago in first.items() if ago <= self.last_accepted}

    @property
    def is_shared(self) -> bool:
        """Whether the messages that are refused in this way have nothing else in common, and nothing passes any more."""
        refused = self.since_accepted
        domains = set(refused.values())
        if len(domains) == 1 and any(answer.domain not in domains for answer in self.accepted):
            return False  # it is that domain's
        return len(refused) >= SEVERAL or (len(domains) > 1 and not self.accepted)

    @property
    def is_burst(self) -> bool:
        """Whether several messages were refused within a short time, with few acceptances between."""
        burst = [answer for answer in self.same if answer.seconds_ago <= BURST]
        refused = {self.message, *(answer.message for answer in burst)}
        began = max((answer.seconds_ago for answer in burst), default=0.0)
        between = [answer for answer in self.accepted if answer.seconds_ago < began]
        if len(refused) < SEVERAL or len(between) > PER_REFUSAL * len(refused):
            return False
        domains = {self.domain, *(answer.domain for answer in burst)}
        if len(domains) > 1:
            return True
        # One domain may be greylisting. The server itself is at its limit if it takes mail for this domain at other times,
        # and takes none for others now.
        is_open = any(answer.domain in domains and answer.seconds_ago <= WORKING for answer in self.accepted)
        return is_open and all(answer.domain in domains for answer in between)

    @property
    def is_outage(self) -> bool:
        """Whether nothing has passed for longer than a greylisting lasts, which is a few minutes (RFC 6647, 4.2)."""
        began = max((answer.seconds_ago for answer in self.same), default=0.0)
        return self.is_shared and min(began, self.last_accepted) >= WORKING

    @property
    def is_alone_for_long(self) -> bool:
        """Whether this message was refused often enough, over some minutes, and nothing says that it is the transport."""
        refusals, seconds = ALONE_BUT_WORKING if self.accepted else ALONE
        own = {answer.seconds_ago for answer in self.same if answer.message == self.message}
        return len(own) + 1 >= refusals and self.first >= seconds


def gist(code: str, text: str) -> tuple[str, str]:
    """Return what two answers have in common if they say the same: the code, and the status or the words of the text.

    Words with digits, dots, an @ or a mask are left out: addresses, hosts, queue ids, times. A connection that broke has no
    code, and says the same whatever the error was.
    """
    if not code:
        return "", ""
    return code, status_of(text) or " ".join(re.findall(r"(?<!\S)[^\W\d_]+(?=[,:;.]?(?:\s|$))", text[:200].lower()))
