"""smtplib's client with bounds: on silence, on the time and the length of a complete reply, on the rate of writing.

smtplib bounds single system calls only. A server that sends one octet a second, or reads so slowly, would hold it for ever.
"""

import fcntl
import itertools
import select
import smtplib
import socket
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from mailer.outcomes import Phase
from mailer.transports.oauth import sasl
from mailer.transports.oauth.token import Token

TIMES_SILENCE = 4
"""A complete reply may take this many times the longest silence. So may a pause between two writes: what the buffers on both
sides still hold is progress that the sender cannot see. (RFC 5321, 4.5.3.2.5 allows three minutes for each write.)"""
LONGEST_ANSWER_TO_DOT = timedelta(minutes=10)
"""From the final dot to its complete reply (RFC 5321, 4.5.3.2.6). The server may deliver the message in this time."""
LONGEST_CHECK = 5.0
"""Seconds for the reply to NOOP or RSET on a connection that can simply be replaced."""
LONGEST_GOODBYE = 1.0
"""Seconds for the reply to QUIT."""
MOST_REFUSALS = 5
"""In one session. Servers slow down after ten (Postfix' soft limit), and hang up on an innocent message after twenty."""
SLOWEST_RATE = 4_000
"""Octets per second for a message as a whole: half of an ISDN line. 10 MB may take 40 minutes, and no server may make it last
for ever by reading one octet at a time."""
LONGEST_REPLY = 65_536
"""Octets. A server may answer in any number of lines."""
PIECE = 16_384
"""Octets for each read and write: one TLS record. A timeout in Python is for the whole call, so a large one would bound the
message."""
TOGETHER = 4_096
"""Octets of the commands that are written before their replies are read: a hundred recipients. The buffers on both sides hold
so few, so a server that waits until we read its replies cannot make us wait until it reads (RFC 2920, 3.1)."""
UNSEEN = 131_072
"""Octets of the system's send buffer. Linux lets it grow to megabytes, which a slow line needs minutes for; meanwhile nothing
could be written, and the wait for the reply would begin long before the server has the message."""


class _Replies:
    """The lines of replies, read within the client's bounds."""

    def __init__(self, client: "SMTP") -> None:
        self.client = client
        self.waiting = b""
        """What was read with an earlier line. Several replies can come together."""

    def readline(self, limit: int) -> bytes:
        """Return the next line, cut at `limit` octets; the rest before the end. Called by smtplib. Raises OSError."""
        while (end := self.waiting.find(b"\n", 0, limit) + 1) == 0 and len(self.waiting) < limit:
            received = self.client.read_some()
            if not received:
                break
            self.waiting += received
        end = end or limit
        line, self.waiting = self.waiting[:end], self.waiting[end:]
        return line

    def close(self) -> None:
        """Called by smtplib."""


class SMTP(smtplib.SMTP):
    """An SMTP connection, plain or with STARTTLS."""

    timeout: float
    """Seconds: the longest silence before the dot."""
    phase = Phase.CONNECT
    """CONNECT, then LOGIN. Later phases are the transaction's."""
    needs_reset = False
    """A transaction began and did not end."""
    refusals = 0
    """The number of 4xx and 5xx replies: see MOST_REFUSALS."""
    last_words: tuple[int, bytes] | None = None
    """The reply that was waiting when a write failed: why the server hung up."""
    sock: socket.socket | None
    file: _Replies | None
    _reply_ends = 0.0
    _longest_silence = 0.0
    _reply_octets = 0

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSEEN)
        made.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # or the dot waits for the acknowledgement of the body
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a router may forget a silent connection
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), 60)
        return made

    def login(self, user: str, password: str, **options: Any) -> Any:
        self.phase = Phase.LOGIN
        if isinstance(password, Token):
            return sasl.log_in(self, user, password)
        return super().login(user, password, **options)

    def getreply(self, within: float | None = None) -> tuple[int, bytes]:
        """Return code and text. A code of -1 is no reply of SMTP. Raises SMTPServerDisconnected, after which it is closed.

        `within` bounds the complete reply, in seconds, and replaces the bound on silence.
        """
        self._longest_silence = within or self.timeout
        self._reply_ends = time.monotonic() + (within or TIMES_SILENCE * self.timeout)
        self._reply_octets = 0
        if self.file is None and self.sock is not None:
            self.file = _Replies(self)
        try:
            reply = super().getreply()
        except smtplib.SMTPResponseException as error:  # smtplib's own, with an invented code of 500
            raise smtplib.SMTPServerDisconnected(f"a reply cannot be read: {error.smtp_error!s}") from error
        except AttributeError as error:  # smtplib on a closed connection
            raise smtplib.SMTPServerDisconnected("the connection is closed") from error
        self.refusals += reply[0] >= 400
        return reply

    def read_some(self) -> bytes:
        """Return what there is, nothing at the end. Raises OSError when a bound is passed."""
        left = self._reply_ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the reply took too long")
        if self.sock is None:
            return b""
        self.sock.settimeout(min(left, self._longest_silence))
        received = self.sock.recv(PIECE)
        self._reply_octets += len(received)
        if self._reply_octets > LONGEST_REPLY:
            raise OSError("the reply is too long")
        return received

    def send(self, s: Any) -> None:
        """Write all of it, text or octets. Raises SMTPServerDisconnected and closes the connection, or UnicodeEncodeError."""
        octets = memoryview(s.encode(self.command_encoding) if isinstance(s, str) else s)
        if self.sock is None:
            raise smtplib.SMTPServerDisconnected("the connection is closed")
        pause = TIMES_SILENCE * self.timeout
        ends = time.monotonic() + pause + len(octets) / SLOWEST_RATE
        try:
            while octets:
                left = ends - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the server reads too slowly")
                self.sock.settimeout(min(left, pause))
                octets = octets[self.sock.send(octets[:PIECE]) :]
        except OSError as error:
            if not isinstance(error, TimeoutError):
                with suppress(OSError):
                    self.last_words = self.getreply(LONGEST_CHECK)
            self.close()
            raise smtplib.SMTPServerDisconnected(f"Connection unexpectedly closed: {error}") from error

    def write_together(self, commands: Sequence[bytes]) -> int:
        """Write the first of these commands, with those after it that need not wait for its reply. Return their number.

        Raises SMTPServerDisconnected.
        """
        ends = itertools.accumulate(map(len, commands))
        number = max(1, sum(end <= TOGETHER for end in ends)) if self.has_extn("pipelining") else 1
        self.send(b"".join(commands[:number]))
        if number > 1 and self.sock is not None and hasattr(socket, "TCP_QUICKACK"):
            # Or a server that writes each reply by itself waits 40 ms until we acknowledge the one before it.
            with suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return number

    def drain(self) -> None:
        """Wait until the server's system has everything that was written. Raises TimeoutError.

        Until then a cut is certain to have come before the dot, and a look at the clock is too early.
        """
        ends = time.monotonic() + TIMES_SILENCE * self.timeout + _unacknowledged(self.sock) / SLOWEST_RATE
        while _unacknowledged(self.sock) and not self.is_readable(0.002):
            if time.monotonic() > ends:
                raise TimeoutError("the server stopped reading")

    def is_readable(self, seconds: float = 0.0) -> bool:
        """Return whether the server said something within this time, or hung up."""
        if self.sock is None or (self.file is not None and self.file.waiting):
            return True
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def is_alive(self, idle: float) -> bool:
        """Return whether the connection can be used again after `idle` seconds. Ends an open transaction."""
        if self.sock is None:
            return False
        if not self.needs_reset and idle < 1 and not self.is_readable():
            return True
        try:
            self.putcmd("rset" if self.needs_reset else "noop")
            code, _ = self.getreply(min(LONGEST_CHECK, TIMES_SILENCE * self.timeout))
        except OSError:
            return False
        self.needs_reset = False
        return 200 <= code < 300

    def quit(self) -> tuple[int, bytes]:
        """End the session politely. The connection is closed in any case. Raises OSError."""
        try:
            self.putcmd("quit")
            return self.getreply(LONGEST_GOODBYE)
        finally:
            self.close()


class EncryptedSMTP(SMTP, smtplib.SMTP_SSL):
    """An SMTP connection with implicit TLS."""


def _unacknowledged(sock: socket.socket | None) -> int:
    """Return the octets that the other side has not received yet; 0 where the system does not tell."""
    if sock is not None:
        with suppress(OSError):
            return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0
