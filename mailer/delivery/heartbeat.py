"""The heartbeat of a worker process, by the clock of the database.

A claim names its worker. It is abandoned when the worker is silent, not when a clock says so: a living worker may wait ten
minutes for an answer, and the mail of a dead one is recovered within seconds.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import structlog
from django.db import Error, close_old_connections, connection

from mailer.models import SILENCE, Role, Worker

log = structlog.get_logger(__name__)

EVERY = 2.0
"""Seconds between two heartbeats."""
LATE = SILENCE.total_seconds() - EVERY
"""Seconds after its last heartbeat from which a worker must not begin to transmit: its claims may be given away soon."""

BEAT = f"""
INSERT INTO {Worker._meta.db_table} AS worker (id, host, pid, role, release, queues, doing, started_at, seen_at, broker_at)
VALUES (%(id)s, %(host)s, %(pid)s, %(role)s, %(release)s, %(queues)s, %(doing)s, statement_timestamp(),
    statement_timestamp(), CASE WHEN %(broker)s THEN statement_timestamp() END)
ON CONFLICT (id) DO UPDATE SET
    seen_at = excluded.seen_at, doing = excluded.doing, broker_at = coalesce(excluded.broker_at, worker.broker_at)
"""  # noqa: S608 - the name is our own model's


class Heartbeat:
    """The identity of this process as a worker, and the messages that it has in hand. Threads share it.

    `broker_answers` says whether the broker did when it was last asked. `finished` counts the messages that it had in hand.
    `has_dropped` says that after an error rows may name this worker that it has not in hand. A thread has the lock `reserving`
    while it reserves messages: other threads must not take for dropped what it has not in hand yet.
    """

    def __init__(self, role: Role = Role.WORKER) -> None:
        self.role = role
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Begin as a new worker."""
        self.worker = uuid.uuid4()
        self.host = socket.gethostname()
        self.queues: Sequence[str] = ()
        self.broker_answers = False
        self.finished = 0
        self._in_hand: dict[int, float | None] = {}
        self.has_dropped = False
        self.reserving = threading.RLock()
        self._lock = threading.Lock()
        self._last = self._first = -float("inf")
        self._was_silent = False

    def beat(self) -> None:
        """Write the heartbeat. Raises the database's errors."""
        began = time.monotonic()  # before the statement, so that a slow one shortens what it promises
        values: dict[str, Any] = {
            "id": self.worker,
            "host": self.host,
            "pid": os.getpid(),
            "role": self.role,
            "broker": self.broker_answers,
            "release": code_digest(),
            "queues": json.dumps(list(self.queues)),
            "doing": ", ".join(f"message {pk}" for pk in self.in_hand())[:200],
        }
        with connection.cursor() as cursor:
            cursor.execute(BEAT, values)
        if not self.is_good():
            self._was_silent = self._first > -float("inf")
            self._first = began
        self._last = began

    def ensure(self) -> None:
        """Beat if the last heartbeat is old: in a process without a thread that does it."""
        if time.monotonic() - self._last > EVERY:
            self.beat()

    def is_good(self) -> bool:
        """Return whether no other process can have given away this worker's claims. It asks no server."""
        return time.monotonic() - self._last < LATE

    def has_been_good_since(self, moment: float) -> bool:
        """Return whether it has been good without a gap since a moment (monotonic), so that nothing was given away since then.

        A process that stood still beats as soon as it goes on, and its heartbeat is good again. Its claims are gone.
        """
        return self.is_good() and self._first <= moment

    def has_lasted(self) -> bool:
        """Return whether it has been beating for so long that living workers have had the time to beat too.

        After the database was away, every worker looks silent at first.
        """
        return self.is_good() and time.monotonic() - self._first > SILENCE.total_seconds()

    def may_judge(self) -> bool:
        """Return whether another worker that looks silent is, as far as this one can tell: it was not silent itself."""
        return not self._was_silent or self.has_lasted()

    def in_hand(self) -> list[int]:
        """Return the ids of the messages that this process has in hand."""
        with self._lock:
            return sorted(self._in_hand)

    def take(self, message_ids: Iterable[int]) -> None:
        """Take messages in hand, until each has had its turn, or was let go."""
        with self._lock:
            self._in_hand |= dict.fromkeys(message_ids, time.monotonic())

    @contextmanager
    def holding(self, *message_ids: int) -> Iterator[None]:
        """Have messages in hand."""
        self.take(message_ids)
        try:
            yield
        except BaseException:
            self.has_dropped = True
            raise
        finally:
            with self._lock:
                for message_id in message_ids:
                    self._in_hand.pop(message_id, None)

    @contextmanager
    def turn_of(self, message_id: int) -> Iterator[bool]:
        """Have the turn of a message in hand. Yield False if it waited for so long that it was let go."""
        with self._lock:
            if is_mine := message_id in self._in_hand:
                self._in_hand[message_id] = None
        try:
            yield is_mine
        except BaseException:
            self.has_dropped = True
            raise
        finally:
            with self._lock:
                if is_mine:
                    self._in_hand.pop(message_id, None)
                    self.finished += 1

    def let_go(self, after: float) -> None:
        """Let go what has waited for its turn for so many seconds: the message before it may take minutes."""
        with self._lock:
            old = time.monotonic() - after
            stuck = [each for each, since in self._in_hand.items() if since is not None and since < old]
            for message_id in stuck:
                del self._in_hand[message_id]
            self.has_dropped |= bool(stuck)

    def end(self) -> None:
        """Delete the heartbeat: what this worker has not finished is free at once."""
        Worker.objects.filter(pk=self.worker).delete()
        self._last = -float("inf")


heartbeat = Heartbeat()


def keep_beating(own: Heartbeat) -> threading.Event:
    """Write this heartbeat in a thread, for Celery beat, which delivers nothing. Return the event that ends it."""
    ends = threading.Event()

    def keep() -> None:
        while not ends.is_set():
            try:
                close_old_connections()
                own.beat()
            except Error as error:
                log.warning("no heartbeat: the database does not answer", error=type(error).__name__)
                connection.close()
            ends.wait(EVERY)
        connection.close()

    threading.Thread(target=keep, name="heartbeat", daemon=True).start()
    return ends


@cache
def code_digest() -> str:
    """Return a digest of the mailer's code, which tells an operator whether all workers run the same release."""
    digest = blake2b(digest_size=4)
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
