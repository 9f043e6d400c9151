"""One message over an open SMTP connection: MAIL, RCPT, DATA, the body, the dot. Every reply becomes an outcome.

smtplib's sendmail() does the same, but does not tell which command was answered, nor whether the dot was sent.

Where the server announces PIPELINING (RFC 2920), MAIL, RCPT and DATA are written together, and the replies are read one by
one, as if each command had been written after the reply to the one before it.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from mailer.addresses import as_transmitted
from mailer.outcomes import (
    NO_SUCH_ADDRESS,
    Accepted,
    Interrupted,
    Outcome,
    OutcomeUnknown,
    PermanentRefusal,
    Phase,
    Stop,
    TransientRefusal,
    TransportDown,
    status_of,
)
from mailer.text import in_words
from mailer.transports import client

TOO_MANY_RECIPIENTS = {
    "4.5.3",
    "5.5.3",
}  # RFC 3463, 3.6. RFC 5321, 4.5.3.1.10: also as 5xx it means "in another transaction"
ADDRESS = re.compile(r"[^\s<>()\[\],;:\"']+@[^\s<>()\[\],;:\"']+")
END_OF_MESSAGE = b"\r\n.\r\n"

Refused = TransientRefusal | PermanentRefusal


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is transmitted, encoded for one server."""

    sender: str
    """An address without a name, as all of them."""
    recipients: list[str]
    octets: bytes
    """The message, with lines that end with CRLF."""
    mail_options: list[str]


@dataclass(slots=True)
class Transaction:
    """The transmission of one message. `run` once.

    Each step returns the outcome that ends the transaction, or None. A connection that cannot be used again is closed.
    """

    server: client.SMTP
    envelope: Envelope
    guard: Callable[[], None]
    phase: Phase = Phase.MAIL
    accepted: list[str] = field(default_factory=list)
    refused: dict[str, Refused] = field(default_factory=dict)
    dot_sent: bool = False
    commands: list[bytes] = field(default_factory=list)
    """Those that are not written yet."""
    unanswered: int = 0
    """How many were written, and their replies not read yet."""

    def run(self) -> Outcome:
        """Raises ValueError for what cannot be written, and what the guard raises besides Stop."""
        try:
            outcome = self._mail() or self._rcpt() or self._data() or self._body() or self._dot()
            is_over = outcome.code == "421" or isinstance(outcome, TransportDown | OutcomeUnknown)
            if is_over or not self._is_in_step():
                self.server.close()
        except Stop as reason:
            self.server.close()
            return Interrupted(str(reason), refused=self._for_good())
        except OSError as error:
            self.server.close()
            return self._broken(error)
        except BaseException:
            self.server.close()  # a reply may be on its way, which would answer the next command
            raise
        return outcome

    def _mail(self) -> Outcome | None:
        self.commands = _commands(self.envelope, with_size=self.server.has_extn("size"))
        self.guard()
        self.server.needs_reset = True
        return self._refusal(*self._reply())

    def _rcpt(self) -> Outcome | None:
        """Name the recipients, until the server takes no more: the others need another transaction."""
        self.phase = Phase.RCPT
        waiting = list(self.envelope.recipients)
        no_more: TransientRefusal | None = None
        while waiting:
            if no_more and not self.unanswered:
                self.refused |= dict.fromkeys(waiting, no_more)
                del self.commands[:-1]  # all but DATA
                break
            recipient = waiting.pop(0)
            refusal = self._refusal(*self._reply(), recipient)
            if refusal is None:
                self.accepted.append(recipient)
                continue
            if not isinstance(refusal, TransientRefusal | PermanentRefusal):
                return refusal
            if refusal.code == "421":  # the server closes the connection, and no recipient gets the message
                return self._with_refused(refusal)
            if self.accepted and means_no_more(refusal):
                refusal = no_more = TransientRefusal(refusal.code, refusal.text, Phase.RCPT)
            self.refused[recipient] = refusal
        return None if self.accepted else self._all_refused()

    def _data(self) -> Outcome | None:
        self.phase = Phase.DATA
        code, raw = self._reply()
        return None if code == 354 else self._refusal(code, raw) or self._not_understood(code, raw)

    def _reply(self) -> tuple[int, bytes]:
        """Return the reply to the next command. Write it first, and those that may be written with it."""
        if not self.unanswered:
            self.unanswered = self.server.write_together(self.commands)
            del self.commands[: self.unanswered]
        self.unanswered -= 1
        return self.server.getreply()

    def _is_in_step(self) -> bool:
        """Read the replies to what was written after the command that was refused. Return whether all are refusals, too.

        A session with too many of them ends at once: the server would make us wait for each of the others. A server that
        answers DATA with 354 now waits for a message, and gets none. (RFC 2920, 3.1: it should get one without a line. Then
        nobody would get that only because the server says so.)
        """
        ends = time.monotonic() + client.LONGEST_CHECK
        with suppress(OSError):
            while self.unanswered and self.server.refusals < client.MOST_REFUSALS and time.monotonic() < ends:
                code, _ = self.server.getreply(client.LONGEST_CHECK)
                if code < 400 or code == 421:
                    break
                self.unanswered -= 1
        return not self.unanswered

    def _body(self) -> Outcome | None:
        """Write everything but the end, without which no server can take it as a message."""
        body = (b"\n" + self.envelope.octets).replace(b"\n.", b"\n..")[1:]  # RFC 5321, 4.5.2
        self.server.send(body.removesuffix(b"\r\n"))
        if len(body) > client.PIECE:
            self.server.drain()
        self.guard()
        if self.server.is_readable():  # it hung up, or refuses the message before its end
            code, raw = self.server.getreply(client.LONGEST_CHECK)
            self.server.close()
            return self._refusal(code, raw) or self._not_understood(code, raw)
        return None

    def _dot(self) -> Outcome:
        self.dot_sent = True  # before, because a signal may raise anything between the call and its return
        try:
            self.server.send(END_OF_MESSAGE)
        except OSError:
            self.dot_sent = False  # the system did not take all of it
            raise
        self.phase = Phase.DOT
        code, raw = self.server.getreply(client.LONGEST_ANSWER_TO_DOT.total_seconds())
        self.server.needs_reset = False
        if 200 <= code < 300:
            return Accepted(str(code), _text(raw), tuple(map(as_transmitted, self.accepted)), self.refused)
        return self._refusal(code, raw) or self._not_understood(code, raw)

    def _refusal(self, code: int, raw: bytes, recipient: str = "") -> Outcome | None:
        """Return the outcome of a reply that ends the transaction. None if it goes on."""
        text, refused = _text(raw), {} if recipient else self._for_good()
        if 200 <= code < 300 and self.phase in (Phase.MAIL, Phase.RCPT):
            return None
        if 400 <= code < 500:
            return TransientRefusal(str(code), text, self.phase, refused=refused)
        if 500 <= code < 600:
            return PermanentRefusal(str(code), text, self.phase, _says_unknown(text, recipient), refused)
        return self._not_understood(code, raw)

    def _not_understood(self, code: int, raw: bytes) -> Outcome:
        return self._unanswered(f"the reply cannot be understood: {code} {_text(raw)}")

    def _broken(self, error: OSError) -> Outcome:
        """The connection broke, or the server was too slow. If it said why before it hung up, that counts."""
        code, raw = self.server.last_words or (0, b"")
        if code >= 400 and not self.dot_sent:
            return self._refusal(code, raw) or self._not_understood(code, raw)
        return self._unanswered(in_words(error))

    def _unanswered(self, text: str) -> Outcome:
        if self.dot_sent:
            return OutcomeUnknown(f"the payload was sent, then {text}", refused=self._for_good())
        return TransportDown("", text, self.phase, refused=self._for_good())

    def _all_refused(self) -> Outcome:
        """Refuse for good only if every recipient was refused for good; otherwise retry."""
        return self._with_refused(min(self.refused.values(), key=lambda refusal: refusal.code))

    def _with_refused(self, refusal: Refused) -> Outcome:
        return replace(refusal, refused=self._for_good())

    def _for_good(self) -> dict[str, PermanentRefusal]:
        """Of several recipients, those that were refused for good."""
        if len(self.envelope.recipients) == 1:
            return {}
        return {a: refusal for a, refusal in self.refused.items() if isinstance(refusal, PermanentRefusal)}


def _commands(envelope: Envelope, *, with_size: bool) -> list[bytes]:
    """Return MAIL, each RCPT, and DATA. Raises ValueError for an address that cannot be written."""
    options = [f"SIZE={len(envelope.octets)}"] * with_size + envelope.mail_options
    commands = [
        " ".join([f"MAIL FROM:<{envelope.sender}>", *options]),
        *(f"RCPT TO:<{recipient}>" for recipient in envelope.recipients),
        "DATA",
    ]
    if any("\r" in command or "\n" in command for command in commands):
        raise ValueError("an address with a line break")
    encoding = "utf-8" if "SMTPUTF8" in options else "ascii"
    return [f"{command}\r\n".encode(encoding) for command in commands]


def means_no_more(refusal: Refused) -> bool:
    """Return whether the server takes no more recipients in this transaction (RFC 5321, 4.5.3.1.10), after it took some."""
    status = status_of(refusal.text)
    return status in TOO_MANY_RECIPIENTS or (
        not status and (refusal.code == "452" or "too many recipients" in refusal.text.lower())
    )


def _says_unknown(text: str, recipient: str) -> bool:
    """Return whether a reply to RCPT says that this recipient does not exist.

    Servers refuse at RCPT for other reasons too, with the same status: `550 5.1.1 <us@example.com>: Sender address rejected`.
    """
    if not recipient or status_of(text) not in NO_SUCH_ADDRESS or "sender" in text.lower():
        return False
    named = {as_transmitted(address.rstrip(".")).lower() for address in ADDRESS.findall(text)}
    return not named or as_transmitted(recipient).lower() in named


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
