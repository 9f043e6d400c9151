"""Start the processes: servers first, then migrations, then what needs tables. Wait until each one is ready."""

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from config import celery_app
from local import CannotStart, servers, supervision
from local.environment import ADDRESS, ROOT, VALKEY_SOCKET
from local.programs import Program, log_of

PATIENCE = 60.0
"""Seconds until every process must be ready."""

AWAIT: Mapping[str, Callable[[Path], None]] = {
    "postgres": servers.await_postgres,
    "valkey": lambda sockets: servers.await_valkey(sockets / VALKEY_SOCKET),
}
PAGES = {
    "web": ("WEB_PORT", "/healthz"),
    "flower": ("FLOWER_PORT", "/healthcheck"),
    "inbox": ("INBOX_PORT", "/healthz"),  # its SMTP side listens before its pages do
}


def failure(name: str, reason: str) -> CannotStart:
    """Return an error that shows the end of the log of a process."""
    lines = log_of(name).read_text(errors="replace").splitlines()[-15:]
    return CannotStart("\n    ".join([f"{name} {reason}. The end of .local/log/{name}.log:", *lines]))


def bring_up(everything: Sequence[Program], ports: Mapping[str, int], sockets: Path) -> str | None:
    """Start everything. Return the administrator's password if this start made one. Raises CannotStart."""
    names = [program.name for program in everything]
    print(f"Starting {', '.join(names)}", flush=True)
    for name in AWAIT.keys() & names:
        supervision.start(name)
        try:
            AWAIT[name](sockets)  # not its pid: after a crash PostgreSQL may need a second attempt
        except TimeoutError as error:
            raise failure(name, f"does not answer: {error}") from error
    password = migrate()
    wait_until_ready({name: supervision.start(name) for name in names if name not in AWAIT}, ports)
    return password


def migrate() -> str | None:
    """Migrate the database and, without DEBUG, collect static files.

    Return the administrator's password if there was none. Raises CannotStart.
    """
    # In its own session, so that Ctrl-C reaches only this process.
    command = [sys.executable, "-m", "local.database"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False, start_new_session=True)
    if done.returncode:
        raise CannotStart("The migrations or the static files failed; the reason is above.")
    return done.stdout.strip() or None


def wait_until_ready(pids: Mapping[str, int], ports: Mapping[str, int]) -> None:
    """Wait until every process of `pids` is ready. Raises CannotStart with the first one that does not."""
    deadline = time.monotonic() + PATIENCE
    pending = set(pids)
    while pending:
        now = supervision.pids()
        for name, pid in pids.items():
            if not pid or now[name] != pid:
                raise failure(name, "ended while it was starting")
        pending = {name for name in pending if not _is_ready(name, ports)}
        if pending and time.monotonic() > deadline:
            raise failure(min(pending), f"was not ready within {PATIENCE:g} s")
        time.sleep(0.1)


def _is_ready(name: str, ports: Mapping[str, int]) -> bool:
    """For a page any HTTP response will do. A connection will not: gunicorn accepts some long before it can answer."""
    if name == "worker":
        return bool(celery_app.control.ping(timeout=0.3, limit=1))
    if name not in PAGES:
        return True
    variable, path = PAGES[name]
    with closing(http.client.HTTPConnection(ADDRESS, ports[variable], timeout=1)) as connection:
        try:
            connection.request("GET", path)
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            return False
    return True
