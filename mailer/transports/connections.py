"""The open connections of this process, which its threads borrow: one pool for each transport.

How many a server allows is learnt. It answers one too many with 421 at the greeting, while those that are open go on
working. Then the pool grows no further, and after a while it tries one more: additive increase, and a decrease to the load
that was accepted. (D.-M. Chiu, R. Jain: Analysis of the increase and decrease algorithms for congestion avoidance in computer
networks. Computer Networks and ISDN Systems 17, 1989. Their decrease is multiplicative, because a sender cannot see what
fits. Here it can.)
"""

import math
import os
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Self
from weakref import WeakSet

import structlog
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import mailers
from django.core.mail.backends.base import BaseEmailBackend

from mailer.conf import options
from mailer.outcomes import Busy, Phase, TransportDown
from mailer.transports import anymail, smtp
from mailer.transports.client import MOST_REFUSALS

log = structlog.get_logger(__name__)

LONGEST_WAIT = 5.0
"""Seconds for a connection to become free. Then the message goes back."""
ONE_MORE_AFTER = 30.0
"""Seconds at a limit, until one more connection is tried."""
LATELY = 60.0
"""Seconds in which a server that accepted mail is not believed to be down, only because it allows no new connection."""
LONGEST_IDLE = 30.0
"""Seconds until an unused connection is closed. Another process may need it, and a router may have forgotten it."""
CONNECTIONS = r"connection|concurren|session|simultan"
LIMITS = re.compile(rf"{CONNECTIONS}|too many|too much|limit|busy", re.IGNORECASE)
"""In a 4.3.x greeting: more connections than are allowed. Sendmail says so as 4.3.2, as others say that they are closed."""
LIMITS_OF_ACCOUNT = re.compile(CONNECTIONS, re.IGNORECASE)
"""In a 4xx answer to AUTH. Too many attempts to log in are something else."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Connection:
    """A borrowed connection. Give it back with `release`, which `transmit` does, or use it in a `with` statement."""

    alias: str
    backend: BaseEmailBackend
    pool: "Pool" = field(repr=False)
    is_open: bool = False
    is_kept: bool = False
    """It was used before, so the server may have closed it meanwhile."""
    used_at: float = 0.0
    """Monotonic."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def open(self) -> TransportDown | None:
        """Connect and log in. The backends of providers only make a session, without a word on the network."""
        try:
            down = smtp.connect(self.backend)
        except Exception as error:  # a setting is wrong, or a library cannot start with it
            log.exception("unexpected error while connecting", transport=self.alias)
            down = TransportDown("", f"{type(error).__name__} while connecting", misconfigured=True)
        self.is_open = down is None
        return down

    def renew(self) -> TransportDown | None:
        """Replace the connection by a new one, without another place in the pool."""
        self.close(politely=False)
        self.backend, self.is_kept = _backend(self.alias), False
        return self.open()

    def is_alive(self) -> bool:
        """Return whether the server still answers."""
        if not isinstance(self.backend, smtp.EmailBackend):
            return True
        idle = time.monotonic() - self.used_at
        return self.backend.connection is not None and self.backend.connection.is_alive(idle)

    def release(self) -> None:
        """Give it back to the pool, or close it if it cannot be used again. A second call does nothing."""
        self.pool.give_back(self)

    @property
    def can_be_kept(self) -> bool:
        """Whether another message can be sent over it."""
        if not isinstance(self.backend, smtp.EmailBackend):
            return self.is_open and isinstance(self.backend, anymail.BACKENDS)  # others do not say when theirs is dead
        client = self.backend.connection
        return client is not None and client.sock is not None and client.refusals < MOST_REFUSALS

    def close(self, *, politely: bool = True) -> None:
        """Close it; politely with QUIT, if the session is still in order."""
        self.is_open = False
        try:
            if isinstance(self.backend, smtp.EmailBackend) and not (politely and self.can_be_kept):
                self.backend.abort()
            else:
                self.backend.close()
        except OSError as error:
            log.debug("the connection did not close cleanly", transport=self.alias, error=type(error).__name__)


class Pool:
    """The connections of this process to one transport. Safe for threads; not for a forked child, which makes its own."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.accepted_at = -math.inf
        """When a message was accepted last; monotonic."""
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._borrowed: WeakSet[Connection] = WeakSet()  # also those being opened; a thread that dies drops its own
        self._limit = math.inf
        self._limited_at = 0.0

    def has_lent(self, connection: Connection) -> bool:
        """Return whether it was borrowed and not given back."""
        return connection in self._borrowed

    def borrow(self, *, is_probe: bool) -> Connection | Busy | TransportDown:
        """Return a connection that works: a kept one, else a new one, else one that becomes free within LONGEST_WAIT."""
        give_up_at = time.monotonic() + LONGEST_WAIT
        if is_probe:
            self.close_idle(0)  # a session goes on with the settings that its server had when it began
        while connection := self._take(give_up_at):
            if connection.is_kept:
                if connection.is_alive():
                    return connection
                self._drop(connection)
                self.close_idle(0, politely=False)  # they are older still
                continue
            down = connection.open()
            if down is None:
                self._note_open()
                return connection
            others = self._drop(connection)
            if not is_limit(down) or not (others or self._accepted_lately()):
                self._limit = math.inf  # the server is away, and what it allows may be different when it is back
                return down
            self._limit_to_open(down)
            if not others:
                return Busy(down.text)
        return Busy("every connection that the server allows is in use")

    def give_back(self, connection: Connection) -> None:
        """Keep it for another message, or close it."""
        with self._changed:
            if connection not in self._borrowed:
                return
            keep = connection.can_be_kept
            if keep:
                self._borrowed.discard(connection)
                connection.is_kept, connection.used_at = True, time.monotonic()
                self._idle.append(connection)
                self._changed.notify()
        if not keep:
            self._drop(connection, politely=True)
        self.close_idle()

    def close_idle(self, longer_than: float = LONGEST_IDLE, *, politely: bool = True) -> None:
        """Close the connections that were not used for so many seconds."""
        old = time.monotonic() - longer_than
        with self._changed:
            closing = [each for each in self._idle if each.used_at <= old]
            self._idle = [each for each in self._idle if each.used_at > old]
        for each in closing:
            each.close(politely=politely)

    def abandon(self) -> None:
        """Close the sockets that a child inherited, without a word: the sessions are the parent's."""
        for each in [*self._idle, *self._borrowed]:
            each.close(politely=False)

    def _take(self, give_up_at: float) -> Connection | None:
        """Return a kept connection, or the place of a new one. None if there is no place until then."""
        with self._changed:
            while not self._idle and len(self._borrowed) >= self._allowed():
                left = give_up_at - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            connection = self._idle.pop() if self._idle else Connection(self.alias, _backend(self.alias), self)
            self._borrowed.add(connection)
        return connection

    def _allowed(self) -> float:
        now = time.monotonic()
        if self._limit < math.inf and now - self._limited_at >= ONE_MORE_AFTER:
            self._limit += 1
            self._limited_at = now
        return self._limit

    def _drop(self, connection: Connection, *, politely: bool = False) -> int:
        """Close a borrowed connection. Returns the number of others that are in use or being opened."""
        connection.close(politely=politely)  # before its place is free: the server counts it until then
        with self._changed:
            self._borrowed.discard(connection)
            self._changed.notify()
            return len(self._borrowed)

    def _accepted_lately(self) -> bool:
        return time.monotonic() - self.accepted_at < LATELY

    def _note_open(self) -> None:
        with self._changed:
            self._limit = max(self._limit, self._open())

    def _limit_to_open(self, down: TransportDown) -> None:
        with self._changed:
            limit, self._limited_at = max(1, self._open()), time.monotonic()
            if limit != self._limit:
                log.info("the server allows no more connections", transport=self.alias, limit=limit, reason=down.text)
            self._limit = limit

    def _open(self) -> int:
        return len(self._idle) + sum(each.is_open for each in self._borrowed)


def is_limit(down: TransportDown) -> bool:
    """Return whether a refused greeting or log-in means too many connections, and not that the server is closed."""
    if not down.code.startswith("4") or down.code == "454":  # TLS, or log-in, is not available
        return False
    if down.phase is Phase.LOGIN:
        return LIMITS_OF_ACCOUNT.search(down.text) is not None
    return not down.text.startswith("4.3.") or LIMITS.search(down.text) is not None


def connect(alias: str, *, is_probe: bool = False) -> Connection | Busy | TransportDown:
    """Borrow a connection to `MAILERS[alias]` that is open, logged in, and known to work. No message is concerned yet.

    `Busy` pauses nothing. A probe gets a new connection.
    """
    try:
        return _pools.setdefault(alias, Pool(alias)).borrow(is_probe=is_probe)
    except ImproperlyConfigured as error:
        return TransportDown("", str(error), misconfigured=True)


def close_idle() -> None:
    """Close the connections of this process that were idle for LONGEST_IDLE. For a timer."""
    for pool in list(_pools.values()):
        pool.close_idle()


def close_all() -> None:
    """Close the connections of this process that are not in use. For the end of the process."""
    for pool in list(_pools.values()):
        pool.close_idle(0)


def _backend(alias: str) -> BaseEmailBackend:
    backend = mailers[alias]
    backend.timeout = options().smtp_timeout.total_seconds()  # type: ignore[attr-defined]
    anymail.bound(backend)
    return backend


_pools: dict[str, Pool] = {}


def _forget_the_parents() -> None:
    for pool in _pools.values():
        pool.abandon()
    _pools.clear()


os.register_at_fork(after_in_child=_forget_the_parents)
