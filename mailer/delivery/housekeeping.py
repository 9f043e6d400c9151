"""The background thread of every worker process: its heartbeat, the sweep, and delivery without the broker.

It needs no task and no answer of the broker, so it works whatever happens there. The sweep and the delivery, which call the
application's code, have threads of their own, and so has the end of idle connections, which waits for mail servers: nothing
that they wait for makes this worker look dead.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog
from django.db import close_old_connections, connection, transaction

from mailer.conf import options
from mailer.database import is_away
from mailer.delivery import broker, circuit, ping, pipeline, sweep
from mailer.delivery.heartbeat import EVERY, heartbeat
from mailer.delivery.reserve import give_back_dropped, has_due
from mailer.models import Role, Taken
from mailer.transports import connections

log = structlog.get_logger(__name__)

PATIENCE = timedelta(seconds=5)
"""How long due mail waits for a task before a worker delivers it without one, unless its tasks finish other mail."""
LONGEST_LOOK = "2s"
"""For each statement of this thread: a slow one must not make this worker look dead."""
LONGEST_STOP = 20.0
"""Seconds that a stopping process waits for a conversation with a mail server."""


class Housekeeping:
    """Start it once in each process that delivers, after the fork."""

    def __init__(self) -> None:
        self._finishing, self._stopping = threading.Event(), threading.Event()
        self._beginning = threading.Lock()
        self._thread: threading.Thread | None = None
        self._working: dict[str, threading.Thread] = {}
        self._swept = -float("inf")
        self._finished = 0

    def start(self, queues: Sequence[str], role: Role = Role.WORKER) -> None:
        """Start the thread of a worker that serves these queues."""
        heartbeat.queues, heartbeat.role = queues, role
        self._finishing.clear()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and delete the heartbeat: what this worker has not finished is free for others at once."""
        if self._thread is None:
            return
        with self._beginning:
            self._finishing.set()
            working = list(self._working.values())
        for thread in working:
            thread.join(LONGEST_STOP)  # with a heartbeat, or its conversations would be given away
        self._stopping.set()
        self._thread.join(LONGEST_STOP)
        self._thread = None
        self._guarded(heartbeat.end)
        connections.close_all()

    def _run(self) -> None:
        while True:
            self._guarded(self._once)
            self._guarded(_show_health)
            if self._stopping.wait(min(EVERY, options().sweep_every.total_seconds())):
                return connection.close()

    def _once(self) -> None:
        heartbeat.broker_answers = broker.answers(heartbeat.queues)
        heartbeat.beat()
        if self._finishing.is_set() or time.monotonic() - self._swept < options().sweep_every.total_seconds():
            return
        self._swept = time.monotonic()
        if not self._is_busy("closing"):
            self._begin("closing", connections.close_idle)  # a server may take a second for each QUIT
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = %s", [LONGEST_LOOK])
            give_back_dropped()
            must_ping = ping.is_due()
            must_sweep = not self._is_busy("sweeping") and sweep.begin()
            must_deliver = self._must_deliver()
        if must_sweep:
            self._begin("sweeping", sweep.sweep)
        if must_sweep and must_ping:
            ping.begin()
        if must_deliver:
            log.info("mail is due and no task came; delivering it without the broker")
            queues, must_stop = heartbeat.queues, self._finishing.is_set
            deliver = partial(pipeline.deliver_due, queues, taken=Taken.FOUND, must_stop=must_stop)
            self._begin("delivering", deliver)

    def _must_deliver(self) -> bool:
        if self._is_busy("delivering"):
            return False
        by_tasks = heartbeat.finished > self._finished and "delivering" not in self._working
        self._finished = heartbeat.finished
        self._working.pop("delivering", None)
        return not by_tasks and has_due(heartbeat.queues, circuit.open_routes(), PATIENCE)

    def _is_busy(self, name: str) -> bool:
        return name in self._working and self._working[name].is_alive()

    def _begin(self, name: str, work: Callable[[], object]) -> None:
        """Do work once in a thread of its own."""

        def do() -> None:
            self._guarded(work)
            connection.close()

        with self._beginning:
            if not self._finishing.is_set():
                self._working[name] = threading.Thread(target=do, name=name, daemon=True)
                self._working[name].start()

    def _guarded(self, step: Callable[[], object]) -> None:
        """Do a step. An error is logged, and the next round tries again."""
        try:
            close_old_connections()
            step()
        except Exception as error:
            if is_away(error):
                log.warning("database away", error=type(error).__name__)
            else:
                log.exception("housekeeping failed; it tries again")
            connection.close()


def _show_health() -> None:
    """Touch the file whose age shows whether this worker is well."""
    path = options().health_file
    if not (path and heartbeat.is_good() and heartbeat.broker_answers):
        return
    try:
        Path(path).touch()
    except OSError as error:
        log.warning("POSTCOMMIT_HEALTH_FILE cannot be written", error=error.strerror)


housekeeping = Housekeeping()
