"""Django's SMTP backend over bounded connections: connect and log in, and encode messages for the server."""

import smtplib
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp
from django.core.mail.backends.base import BaseEmailBackend

from mailer import conf
from mailer.addresses import PLAIN_MAILBOX, for_envelope
from mailer.mime import direct, encoding
from mailer.outcomes import Phase, TransportDown, Unsendable
from mailer.text import in_words
from mailer.transports import staging
from mailer.transports.client import SMTP, EncryptedSMTP
from mailer.transports.conversation import Envelope
from mailer.transports.oauth.token import NoToken
from mailer.transports.oauth.tokens import Tokens, tokens

if TYPE_CHECKING:
    from mailer.transports.dkim import Signer

INVALID_CREDENTIALS = 535
"""RFC 4954, 6."""


class EmailBackend(smtp.EmailBackend):
    """Django's SMTP backend over connections whose every wait is bounded."""

    connection: SMTP | None
    _partial_connection: SMTP | None

    def __init__(self, *args: Any, oauth: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.timeout is None:
            self.timeout = conf.options().smtp_timeout.total_seconds()
        self.tokens = self._tokens(oauth) if oauth is not None else None
        """Where the tokens come from that this account logs in with; None if it has a password, or no log-in."""

    def _tokens(self, oauth: Mapping[str, str]) -> Tokens:
        """Raises ImproperlyConfigured."""
        if self.password:
            raise ImproperlyConfigured("'oauth' takes the place of 'password': remove one of them.")
        if not self.username or not self.username.isprintable():
            raise ImproperlyConfigured("'oauth' needs 'username', the mailbox that sends.")
        if not (self.use_tls or self.use_ssl):
            raise ImproperlyConfigured("'oauth' needs 'use_tls' or 'use_ssl': a token is as good as a password.")
        return tokens(self.username, oauth)

    @property
    def connection_class(self) -> type[SMTP]:
        return EncryptedSMTP if self.use_ssl else SMTP

    def open(self) -> bool | None:
        """Do the same as Django, with a token as the password if there is one. Raises OSError.

        A server may refuse a token that has just expired or was revoked. Then a new one is tried, over a new connection,
        because some servers hang up.
        """
        if self.tokens is None or self.connection:
            return self._open()
        try:
            self.password = self.tokens.current()
            try:
                return self._open()
            except smtplib.SMTPAuthenticationError as refusal:
                if refusal.smtp_code != INVALID_CREDENTIALS:
                    raise
            self.password = self.tokens.current(refused=self.password)
            return self._open()
        except NoToken:
            if not self.fail_silently:
                raise
            return None

    def _open(self) -> bool | None:
        opened: bool | None = super().open()
        return opened

    def connect(self) -> TransportDown | None:
        """Resolve, connect, greet, start TLS, log in. An error is the transport's, and no message's."""
        self.fail_silently = False  # an error that is hidden would make the message count as not sent, without a reason
        try:
            self.open()
            assert self.connection is not None
            self.connection.ehlo_or_helo_if_needed()
        except (OSError, ValueError) as error:
            begun = self._partial_connection or self.connection
            self.abort()
            return _down(error, begun.phase if begun else Phase.CONNECT, f"{self.host}:{self.port}")
        return None

    def abort(self) -> None:
        """Close the connection without a word to the server, which may not answer."""
        for each in (self._partial_connection, self.connection):
            if each is not None:
                each.close()
        self._partial_connection = self.connection = None

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Apply POSTCOMMIT_REDIRECT_ALL_TO and POSTCOMMIT_ALLOWED_RECIPIENTS also to mail that bypasses the outbox."""
        sent: int = super().send_messages(staging.let_through(email_messages))
        return sent

    def _send(self, email_message: EmailMessage) -> bool:
        """Do the same as Django, but encode the message for this server and sign it before MAIL."""
        if not email_message.recipients():
            return False
        assert self.connection is not None
        try:
            self.connection.ehlo_or_helo_if_needed()
            made = self.prepare(email_message)
            self.connection.sendmail(made.sender, made.recipients, made.octets, made.mail_options)
        except smtplib.SMTPException:
            if not self.fail_silently:
                raise
            return False
        return True

    def prepare(self, mail: EmailMessage, bounces_to: str = "") -> Envelope:
        """Encode and sign a message for the connected server. Bounces go to its sender, unless `bounces_to` is given.

        Raises Unsendable, and ValueError for a broken address.
        """
        sender, *recipients = map(self._addr_spec, [bounces_to or mail.from_email, *mail.recipients()])
        octets, mail_options = self._encode(mail, [sender, *recipients])
        return Envelope(sender, list(dict.fromkeys(recipients)), octets, mail_options)

    def _addr_spec(self, address: str) -> str:
        """Return the address without a name, its domain in ASCII, so that replies can be matched to recipients."""
        plain = PLAIN_MAILBOX.fullmatch(str(address))  # Django's parser takes longer than the rest of the encoding
        return for_envelope(plain["address"] if plain else self.prep_address(address, force_ascii=False))

    def _encode(self, mail: EmailMessage, envelope: list[str]) -> tuple[bytes, list[str]]:
        """Return the octets to send, and the options of MAIL for them. Raises Unsendable."""
        assert self.connection is not None
        takes_8bit = self.connection.has_extn("8bitmime")
        signer = dkim_signer()
        signs = signer is not None and signer.signs(mail)
        eight_bit = takes_8bit and not signs  # a relay that re-encodes it breaks the signature (RFC 6376, 5.3)
        common = direct.write(mail, eight_bit=eight_bit) if "".join(envelope).isascii() else None
        octets, utf8 = (common, False) if common else self._encode_any(mail, envelope, eight_bit=eight_bit)
        if signer is not None and signs:
            octets = signer.sign(octets)
        return octets, ["BODY=8BITMIME"] * (not octets.isascii()) + ["SMTPUTF8"] * utf8

    def _encode_any(self, mail: EmailMessage, envelope: list[str], *, eight_bit: bool) -> tuple[bytes, bool]:
        """Return the octets of a message of any shape, and whether it needs SMTPUTF8."""
        assert self.connection is not None
        takes_8bit = self.connection.has_extn("8bitmime")
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
        return encoding.octets(built), utf8


def dkim_signer() -> "Signer | None":
    """Return the DKIM signer, or None if POSTCOMMIT_DKIM_KEYS is not set. Then dkim is not imported: its library is an extra.

    Raises ImproperlyConfigured.
    """
    if not conf.options().dkim_keys:
        return None
    from mailer.transports import dkim

    return dkim.signer()


def connect(backend: BaseEmailBackend) -> TransportDown | None:
    """Open any backend."""
    if isinstance(backend, EmailBackend):
        return backend.connect()
    try:
        backend.open()
    except (OSError, UnicodeError) as error:
        return _down(error, Phase.CONNECT, "the transport")
    return None


def _down(error: OSError | ValueError, phase: Phase, server: str) -> TransportDown:
    """Translate an error before MAIL. (Every error of smtplib is an OSError.)"""
    said = f"{server}: {in_words(error)}"
    match error:
        case NoToken():
            return TransportDown("", str(error), Phase.LOGIN, error.misconfigured)
        case smtplib.SMTPAuthenticationError():
            return _answered(error, Phase.LOGIN, misconfigured=error.smtp_code >= 500)
        case smtplib.SMTPResponseException():
            return _answered(error, phase)
        case smtplib.SMTPServerDisconnected():
            return TransportDown("", said, phase)
        case smtplib.SMTPException():  # the server announces no STARTTLS, no AUTH, or no mechanism that we know
            return TransportDown("", said, phase, misconfigured=True)
        case ValueError() if not isinstance(error, OSError):  # its text may quote the password
            return TransportDown(
                "", f"{server}: a host name or password that cannot be encoded", phase, misconfigured=True
            )
    return TransportDown("", said, phase, misconfigured=_is_misconfigured(error))


def _answered(error: smtplib.SMTPResponseException, phase: Phase, *, misconfigured: bool = False) -> TransportDown:
    raw: bytes | str = error.smtp_error
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return TransportDown(str(error.smtp_code), text, phase, misconfigured)


def _is_misconfigured(error: Exception) -> bool:
    """Return whether a person must act: a certificate, a server without this TLS, the file of a client's certificate."""
    cut = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    return isinstance(error, FileNotFoundError) or (isinstance(error, ssl.SSLError) and not cut)
