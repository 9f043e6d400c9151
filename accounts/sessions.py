"""Sessions that know whose they are, so that a person can see and end them: Django's database sessions with an owner.

https://docs.djangoproject.com/en/6.1/topics/http/sessions/#extending-database-backed-session-engines
"""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.utils import timezone

ORIGIN = "origin"
"""Under this key a session holds what `describe` wrote down when its owner logged in."""


def describe(session: SessionBase, *, browser: str, network: str) -> None:
    """Notes where its owner logged in, and when."""
    session[ORIGIN] = {"browser": browser, "network": network, "logged_in_at": timezone.now().isoformat()}


def end_sessions(user: Any, *, but: str | None = None) -> int:
    """Logs the user out everywhere, or everywhere but in the session with this key. Returns how many it were."""
    return user.sessions.exclude(session_key=but).delete()[0]  # type: ignore[no-any-return]


class SessionStore(DatabaseStore):
    """The session engine `accounts.sessions`."""

    @classmethod
    def get_model_class(cls) -> type[Any]:
        from accounts.models import Session  # this module is loaded before the models are

        return Session

    def create_model_instance(self, data: Mapping[str, Any]) -> Any:
        row: Any = super().create_model_instance(dict(data))
        origin = data.get(ORIGIN, {})
        row.user_id = data.get(SESSION_KEY)
        row.browser, row.network = origin.get("browser", ""), origin.get("network", "")
        row.logged_in_at = origin.get("logged_in_at")
        return row
