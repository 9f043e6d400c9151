"""Start the processes: servers first, then migrations, then what needs tables. Wait until each one is ready."""

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

from celery import Celery
from celery.app.control import Control

from config.environment import redis_url
from local import CannotStart, environment, servers
from local.environment import ADDRESS, ROOT, VALKEY_SOCKET
from local.follow import last_lines
from local.programs import Program, log_of
from local.supervision import Supervisor

PATIENCE = 60.0
"""Seconds until every process must be ready."""

AWAIT: Mapping[str, Callable[[Path], None]] = {
    "postgres": servers.await_postgres,
    "valkey": lambda sockets: servers.await_valkey(sockets / VALKEY_SOCKET),
}


def failure(name: str, reason: str) -> CannotStart:
    """Return an error that shows the end of the log of a process."""
    lines = [f"{name} {reason}."]
    if end := last_lines(log_of(name)):
        lines += [f"The end of .local/log/{name}.log:", *(f"    {line}" for line in end)]
    return CannotStart("\n".join(lines))


def bring_up(
    supervisor: Supervisor, everything: Sequence[Program], ports: Mapping[str, int], sockets: Path
) -> str | None:
    """Start everything. Return the administrator's password if this start made one. Raises CannotStart."""
    embedded = [program.name for program in everything if program.name in AWAIT]
    early = [program.name for program in everything if not program.needs_tables and program.name not in AWAIT]
    late = [program.name for program in everything if program.needs_tables]
    print(f"Starting {', '.join(embedded + early)}", flush=True)
    for name in embedded:
        supervisor.start(name)
    for name in embedded:
        try:
            AWAIT[name](sockets)  # not its pid: after a crash PostgreSQL may need a second attempt
        except TimeoutError as error:
            raise failure(name, f"does not answer: {error}") from error
    pids = {name: supervisor.start(name) for name in early}
    print("Bringing the database up to date", flush=True)
    password = _migrate()
    print(f"Starting {', '.join(late)}", flush=True)
    pids |= {name: supervisor.start(name) for name in late}
    wait_until_ready(supervisor, pids, ports)
    return password


def _migrate() -> str | None:
    """Run local.database in its own session: Ctrl-C reaches this process alone."""
    command = [sys.executable, "-m", "local.database"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False, start_new_session=True)
    if done.returncode:
        raise CannotStart("The database was not brought up to date; the reason is above.")
    return done.stdout.strip() or None


def wait_until_ready(supervisor: Supervisor, pids: Mapping[str, int], ports: Mapping[str, int]) -> None:
    """Wait until every process of `pids` is ready. Raises CannotStart with the first one that does not."""
    deadline = time.monotonic() + PATIENCE
    pending = set(pids)
    while pending:
        now = supervisor.processes()
        for name, pid in pids.items():
            if not now[name].is_alive or now[name].pid != pid:
                raise failure(name, "ended while it was starting")
        pending = {name for name in pending if not _is_ready(name, ports)}
        if pending and time.monotonic() > deadline:
            raise failure(min(pending), f"was not ready within {PATIENCE:g} s")
        time.sleep(0.1)


def _is_ready(name: str, ports: Mapping[str, int]) -> bool:
    match name:
        case "web":
            return _answers(ports["WEB_PORT"], "/healthz")
        case "flower":
            return _answers(ports["FLOWER_PORT"], "/healthcheck")
        case "inbox":  # its SMTP side listens before its pages do
            return _answers(ports["INBOX_PORT"], "/healthz")
        case "worker":
            return bool(_celery().ping(timeout=0.3, limit=1))
    return True


def _answers(port: int, path: str) -> bool:
    """Whether any HTTP response comes back: gunicorn accepts connections long before it can answer."""
    with closing(http.client.HTTPConnection(ADDRESS, port, timeout=1)) as connection:
        try:
            connection.request("GET", path)
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            return False
    return True


@cache
def _celery() -> Control:
    """Celery's remote control, which needs only the broker and not the settings."""
    broker = redis_url(environment.in_force()["REDIS_URL"])
    app = Celery("local", broker=broker.url, set_as_current=False, fixups=[])
    app.conf.broker_transport_options = broker.transport_options
    return app.control
