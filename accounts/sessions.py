"""Database sessions with an owner, so that users can see and end theirs: a model and its store.

The table holds a hash of each session's key, so a leaked row gives no access.

https://docs.djangoproject.com/en/6.1/topics/http/sessions/#extending-database-backed-session-engines
"""

import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.base_session import AbstractBaseSession
from django.contrib.sessions.exceptions import SessionInterrupted
from django.db import models, transaction
from django.utils import timezone

from accounts.network import beginning

ORIGIN = "origin"
"""The key of a session under which `describe` stores where and when its owner logged in."""


def hash_key(session_key: str | None) -> str:
    """Return what the table holds in place of a session's key: 160 bits of its SHA-256."""
    return sha256((session_key or "").encode()).hexdigest()[:40]


class Session(AbstractBaseSession):
    """A session of a browser, logged in or not."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="sessions")
    browser = models.CharField(max_length=100, blank=True)
    network = models.CharField(max_length=50, blank=True)
    logged_in_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"session of user {self.user_id}"

    @property
    def address_begins_with(self) -> str:
        """The beginning of the address from which its user logged in, as far as it is known."""
        return beginning(self.network)

    @classmethod
    def get_session_store_class(cls) -> type["SessionStore"]:
        return SessionStore


class SessionStore(DatabaseStore):
    """The session engine, SESSION_ENGINE = "accounts.sessions"."""

    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    def _get_session_from_db(self) -> Session | None:  # Django's hook; load() calls it
        row = Session.objects.filter(session_key=hash_key(self.session_key), expire_date__gt=timezone.now()).first()
        if row is None:
            self._session_key = None
        return row

    def exists(self, session_key: str) -> bool:
        return super().exists(hash_key(session_key))

    def delete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            super().delete(hash_key(key))

    def cycle_key(self) -> None:
        """Give the session another key, unless it was ended meanwhile: the copy in memory must not bring it back."""
        data, key = self._session, self.session_key  # type: ignore[attr-defined]
        with transaction.atomic():
            if key and not Session.objects.filter(session_key=hash_key(key)).delete()[0]:
                raise SessionInterrupted("The session was ended by another request.")
            self.create()
        self._session_cache = data

    def create_model_instance(self, data: Mapping[str, Any]) -> Any:
        row: Any = super().create_model_instance(dict(data))
        row.session_key = hash_key(row.session_key)
        origin = data.get(ORIGIN, {})
        row.user_id = data.get(SESSION_KEY)
        row.browser, row.network = origin.get("browser", ""), origin.get("network", "")
        row.logged_in_at = origin.get("logged_in_at")
        return row


def describe(session: SessionBase, *, browser: str, network: str) -> None:
    """Record the browser, the network and the time of a log-in in the session."""
    moment = timezone.now().isoformat()
    session[ORIGIN] = {"browser": browser, "network": network, "logged_in_at": moment, "name": secrets.token_hex(8)}


def log_in_of(session: SessionBase) -> str:
    """Return the name of the log-in that a session comes from. Unlike its key, no page changes it without a log-in."""
    return str(session.get(ORIGIN, {}).get("name", ""))


def end_sessions(user: Any, *, except_key: str | None = None) -> int:
    """Log the user out everywhere except in the session with the key `except_key`. Return the number of sessions ended."""
    return user.sessions.exclude(session_key=hash_key(except_key)).delete()[0]  # type: ignore[no-any-return]
