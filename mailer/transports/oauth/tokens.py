"""The tokens of this process, which its threads share: one for each account, renewed before it expires."""

import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic

import structlog
from django.core.exceptions import ImproperlyConfigured

from mailer.transports.oauth.providers import Provider, provider
from mailer.transports.oauth.token import NoToken, Token

log = structlog.get_logger(__name__)

EARLY = timedelta(minutes=5)
"""A token is renewed so long before it expires, or when half of its life is over."""
AGAIN = timedelta(seconds=10)
"""Until then a failed request is not repeated, unless the endpoint asks for a longer pause."""
LONGEST_PAUSE = timedelta(minutes=10)
"""A longer pause would outlive the repair of an endpoint."""


class Tokens:
    """The token of one account. Safe for threads: one of them fetches it, the others wait or go on with the old one."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._renew_at = self._expires_at = 0.0
        """Monotonic."""
        self._failure: NoToken | None = None
        self._ask_at = 0.0

    def current(self, *, refused: Token | None = None) -> Token:
        """Return a token that is valid, and not the one that a server refused. Raises NoToken."""
        usable = self._usable(refused)
        if usable and monotonic() < self._renew_at:
            return usable
        if not self._lock.acquire(blocking=usable is None):
            assert usable is not None
            return usable  # another thread renews it
        try:
            return self._renewed(refused)
        finally:
            self._lock.release()

    def _usable(self, refused: Token | None) -> Token | None:
        return self._token if self._token != refused and monotonic() < self._expires_at else None

    def _renewed(self, refused: Token | None) -> Token:
        usable = self._usable(refused)
        if usable and monotonic() < self._renew_at:  # another thread was quicker
            return usable
        if monotonic() >= self._ask_at:
            try:
                return self._fetch()
            except NoToken as failure:
                self._failure = failure.with_traceback(None)
                self._ask_at = monotonic() + min(max(failure.pause or AGAIN, AGAIN), LONGEST_PAUSE).total_seconds()
                log.warning("no new token for SMTP", reason=str(failure))
        if usable is None:
            assert self._failure is not None
            raise NoToken(str(self._failure), misconfigured=self._failure.misconfigured)
        return usable

    def _fetch(self) -> Token:
        value, life = self._provider.fetch()
        self._token = Token(value)
        self._expires_at = monotonic() + life.total_seconds()
        self._renew_at = self._expires_at - min(EARLY, life / 2).total_seconds()
        return self._token


_tokens: dict[tuple[str, frozenset[tuple[str, str]]], Tokens] = {}


def tokens(user: str, options: Mapping[str, str]) -> Tokens:
    """Return the tokens of an account, the same for all connections. Raises ImproperlyConfigured."""
    if not isinstance(options, Mapping) or not all(isinstance(each, str) for each in options.values()):
        raise ImproperlyConfigured("'oauth' must be a dictionary of texts, as in {'provider': 'microsoft', …}.")
    key = (user, frozenset(options.items()))
    return _tokens.get(key) or _tokens.setdefault(key, Tokens(provider(user, options)))


os.register_at_fork(after_in_child=_tokens.clear)  # a thread of the parent may hold a lock
