"""Whether urgent mail is slow at the moment, for pages that tell people to wait for it."""

import time

from django.db import DatabaseError, InterfaceError

from mailer.delivery import explain
from mailer.delivery.explain import SLOW
from mailer.delivery.pulse import look
from mailer.models import Message, Queue

REMEMBERED = 5.0
"""Seconds for which a process does not look again."""


class Slowness:
    """Looks at workers, transports and what is due, every few seconds at most."""

    def __init__(self) -> None:
        self._looked_at = float("-inf")
        self._is_slow = False

    def is_slow(self) -> bool:
        """Return whether urgent mail is slow; False if the database cannot be asked."""
        if time.monotonic() - self._looked_at >= REMEMBERED:
            self._looked_at = time.monotonic()  # first, so that other threads do not look as well
            try:
                self._is_slow = _find_out()
            except (DatabaseError, InterfaceError):
                self._is_slow = False
        return self._is_slow


slowness = Slowness()


def _find_out() -> bool:
    if explain.what_stops(Message(queue=Queue.CRITICAL), look()):
        return True
    return Message.objects.filter(queue=Queue.CRITICAL, transport="").overdue(SLOW).exists()
