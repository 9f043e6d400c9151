"""Django's SMTP backend, with connections that record their progress, and the translation of replies into outcomes."""

import io
import math
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.mail import EmailMessage
from django.core.mail.backends import smtp
from django.utils.encoding import punycode

from mailer import conf
from mailer.mime import encoding
from mailer.outcomes import OutcomeUnknown, PermanentRefusal, Refusal, TransientRefusal, TransportDown, Unsendable
from mailer.transports import staging

if TYPE_CHECKING:
    from mailer.transports.dkim import Signer

ENHANCED_STATUS = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})\b")  # RFC 3463
NO_SUCH_ADDRESS = {"5.1.1", "5.1.10"}  # RFC 3463, 3.2; RFC 7505 (a domain that accepts no mail)

LINE_TOO_LONG = "Line too long."
"""smtplib's own text, in place of a reply line that is too long."""


LONGEST_REPLY = 65_536
"""Octets. A server may answer in any number of lines."""


class _Replies(io.RawIOBase):
    """The replies of a server, each limited in time and in length. smtplib limits only single lines and silences."""

    def __init__(self, connection: "_Recording") -> None:
        self.connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Called by Python's buffered reader."""
        connection = self.connection
        connection.limit_silence()
        if connection.sock is None:
            return 0
        received = connection.sock.recv_into(buffer)
        connection.reply_octets += received
        if connection.reply_octets > LONGEST_REPLY:
            raise OSError("the reply is too long")
        return received


class _Recording:
    """Mixin for smtplib's classes: record whether the payload's final dot was sent, and limit the whole conversation.

    smtplib raises SMTPServerDisconnected both before and after the dot, and drops the reply to an accepted payload. Its
    timeout limits each silence, but a slow server may be silent many times.
    """

    deadline: float
    """The end of the conversation about the newest message, on the monotonic clock."""
    payload_sent = False
    """Whether the whole payload of the newest message was sent."""
    payload_reply: tuple[int, bytes] | None = None
    """The reply to the payload."""
    refused: dict[str, tuple[int, bytes]]
    """The replies to refused recipients while others were accepted; Django drops them."""
    reply_octets = 0
    """The length of the newest reply."""
    _in_data = False
    sock: socket.socket | None
    file: io.BufferedReader | None

    def __init__(self, *args: Any, deadline: float, **options: Any) -> None:
        self.deadline = deadline
        self.refused = {}
        super().__init__(*args, **options)

    def sendmail(self, *args: Any, **options: Any) -> dict[str, tuple[int, bytes]]:
        self.refused = super().sendmail(*args, **options)  # type: ignore[misc]
        return self.refused

    def data(self, msg: Any) -> tuple[int, bytes]:
        self.payload_sent, self.payload_reply, self._in_data = False, None, True
        try:
            self.payload_reply = super().data(msg)  # type: ignore[misc]
        finally:
            self._in_data = False
        return self.payload_reply

    def getreply(self) -> tuple[int, bytes]:
        self.reply_octets = 0
        if self.file is None and self.sock is not None:
            self.file = io.BufferedReader(_Replies(self))
        reply: tuple[int, bytes] = super().getreply()  # type: ignore[misc]
        return reply

    def send(self, s: Any) -> None:
        self.limit_silence()
        super().send(s)  # type: ignore[misc]
        if self._in_data and isinstance(s, bytes):  # the DATA command itself is a str
            self.payload_sent = True

    def quit(self) -> tuple[int, bytes]:
        try:
            reply: tuple[int, bytes] = super().quit()  # type: ignore[misc]
        except OSError:
            self.close()  # type: ignore[attr-defined]  # Django would drop the connection and leave its socket open
            raise
        return reply

    def limit_silence(self) -> None:
        """Wait for the server only until the end of the conversation. Raises TimeoutError."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the conversation took too long")
        if self.sock is not None:
            self.sock.settimeout(min(left, self.timeout))  # type: ignore[attr-defined]


class SMTP(_Recording, smtplib.SMTP):
    """An SMTP connection, plain or with STARTTLS."""


class EncryptedSMTP(_Recording, smtplib.SMTP_SSL):
    """An SMTP connection with implicit TLS."""


class EmailBackend(smtp.EmailBackend):
    """Django's SMTP backend over connections that record their progress."""

    connection: SMTP | EncryptedSMTP | None
    deadline: float = math.inf
    """On the monotonic clock; set by `begin`, which send_mail() does not call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.timeout is None:
            self.timeout = conf.options().smtp_timeout.total_seconds()

    @property
    def connection_class(self) -> Any:
        return partial(EncryptedSMTP if self.use_ssl else SMTP, deadline=self.deadline)

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Apply POSTCOMMIT_REDIRECT_ALL_TO and POSTCOMMIT_ALLOWED_RECIPIENTS also to mail that bypasses the outbox."""
        sent: int = super().send_messages(staging.let_through(email_messages))
        return sent

    def begin(self, deadline: float) -> None:
        """Begin a conversation about a new message, which ends by `deadline` (monotonic)."""
        self.deadline = deadline
        if self.connection and self.connection.sock:
            self.connection.payload_sent, self.connection.payload_reply, self.connection.refused = False, None, {}
            self.connection.deadline = deadline

    def _send(self, email_message: EmailMessage) -> bool:
        """Do the same as Django, but encode the message for this server and sign it before MAIL."""
        if not email_message.recipients():
            return False
        assert self.connection is not None
        sender, *recipients = map(self._addr_spec, [email_message.from_email, *email_message.recipients()])
        try:
            self.connection.ehlo_or_helo_if_needed()
            octets, mail_options = self._prepare(email_message, [sender, *recipients])
            self.connection.sendmail(sender, recipients, octets, mail_options)
        except smtplib.SMTPException:
            if not self.fail_silently:
                raise
            return False
        return True

    def _addr_spec(self, address: str) -> str:
        """Return the address without a name, its domain in ASCII, so that replies can be matched to recipients."""
        spec = self.prep_address(address, force_ascii=False)
        local, _, domain = spec.rpartition("@")
        return spec if domain.isascii() else f"{local}@{punycode(domain)}"

    def _prepare(self, mail: EmailMessage, envelope: list[str]) -> tuple[bytes, list[str]]:
        """Return the octets to send, and the options of MAIL for them. Raises Unsendable."""
        assert self.connection is not None
        takes_8bit = self.connection.has_extn("8bitmime")
        signer = dkim_signer()
        signs = signer is not None and signer.signs(mail)
        eight_bit = takes_8bit and not signs  # a relay that re-encodes it breaks the signature (RFC 6376, 5.3)
        try:
            built = encoding.build(mail, eight_bit=eight_bit)
        except encoding.Untouchable:
            if not takes_8bit:
                raise
            eight_bit = True
            built = encoding.build(mail, eight_bit=eight_bit)
        utf8 = not "".join(envelope).isascii() or encoding.has_international_address(built)
        if utf8:
            if not (takes_8bit and self.connection.has_extn("smtputf8")):  # both are required (RFC 6531, 3.1)
                raise Unsendable(
                    "an address has non-ASCII characters before its @, and the server does not announce SMTPUTF8 (RFC 6531)"
                )
            built = encoding.build(mail, eight_bit=eight_bit, utf8=True)
        octets = encoding.octets(built)
        if signer is not None and signs:
            octets = signer.sign(octets)
        return octets, ["BODY=8BITMIME"] * (not octets.isascii()) + ["SMTPUTF8"] * utf8

    @property
    def payload_sent(self) -> bool:
        """Whether the whole payload of the newest message was sent."""
        return self.connection is not None and self.connection.payload_sent

    @property
    def reply(self) -> tuple[str, str]:
        """The code and text of the reply to the newest payload."""
        code, text = (self.connection and self.connection.payload_reply) or (250, b"")
        return str(code), _text(text)

    @property
    def refused(self) -> dict[str, TransientRefusal | PermanentRefusal]:
        """The recipients that were refused while the newest message was accepted for others."""
        replies = self.connection.refused if self.connection else {}
        return {address: _of_recipient(*reply) for address, reply in replies.items()}


def dkim_signer() -> "Signer | None":
    """Return the DKIM signer, or None if POSTCOMMIT_DKIM_KEYS is not set. Then dkim is not imported: its library is an extra.

    Raises ImproperlyConfigured.
    """
    if not conf.options().dkim_keys:
        return None
    from mailer.transports import dkim

    return dkim.signer()


def translate(error: OSError, *, payload_sent: bool) -> Refusal:
    """Translate an error of the conversation. (Every error of smtplib is an OSError.)"""
    match error:
        case smtplib.SMTPRecipientsRefused():
            return _all_refused(error.recipients)
        case smtplib.SMTPAuthenticationError():
            return _down(error, misconfigured=error.smtp_code >= 500)
        case smtplib.SMTPNotSupportedError():
            return TransportDown("", str(error), misconfigured=True)
        case smtplib.SMTPConnectError() | smtplib.SMTPHeloError():
            return _down(error, misconfigured=False)
        case smtplib.SMTPSenderRefused() if error.smtp_code == 530 or _status(error.smtp_error).startswith("5.7."):
            return _down(error, misconfigured=True)
        case smtplib.SMTPResponseException() if payload_sent and error.smtp_error == LINE_TOO_LONG:
            return OutcomeUnknown("the payload was sent, then came a reply too long to read")
        case smtplib.SMTPResponseException() if 400 <= error.smtp_code < 600:
            return _by_code(error.smtp_code, error.smtp_error)
    name = f"{type(error).__name__}: {error}".rstrip(": ")
    if payload_sent:
        return OutcomeUnknown(f"the payload was sent, then {name}")
    return TransportDown("", name, misconfigured=isinstance(error, ssl.SSLCertVerificationError))


def _all_refused(replies: dict[str, tuple[int, bytes]]) -> Refusal:
    """Refuse for good only if every recipient was refused for good; otherwise retry."""
    refusal = _by_code(*min(replies.values(), key=lambda reply: reply[0]))
    if len(replies) == 1 or not isinstance(refusal, TransientRefusal | PermanentRefusal):
        return refusal
    each = {address: _of_recipient(*reply) for address, reply in replies.items()}
    return replace(refusal, refused={a: r for a, r in each.items() if isinstance(r, PermanentRefusal)})


def _of_recipient(code: int, raw: bytes | str) -> TransientRefusal | PermanentRefusal:
    refusal = _by_code(code, raw)
    return refusal if isinstance(refusal, PermanentRefusal) else TransientRefusal(str(code), _text(raw))


def _by_code(code: int, raw: bytes | str) -> Refusal:
    if code == 421:  # "service not available, closing transmission channel" (RFC 5321, 4.2.3)
        return TransportDown(str(code), _text(raw))
    if code < 500:
        return TransientRefusal(str(code), _text(raw))
    return PermanentRefusal(str(code), _text(raw), address_unknown=_status(raw) in NO_SUCH_ADDRESS)


def _down(error: smtplib.SMTPResponseException, *, misconfigured: bool) -> TransportDown:
    return TransportDown(str(error.smtp_code), _text(error.smtp_error), misconfigured)


def _status(raw: bytes | str) -> str:
    found = ENHANCED_STATUS.match(_text(raw))
    return found[1] if found else ""


def _text(raw: bytes | str) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
