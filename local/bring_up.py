"""From files to running processes: servers first, then migrations, then what needs the tables."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from local import ready, servers
from local.environment import ROOT
from local.programs import Program
from local.sockets import valkey_socket
from local.supervision import Supervisor

AWAITED: Mapping[str, Callable[[Path], None]] = {
    "postgres": servers.await_postgres,
    "valkey": lambda sockets: servers.await_valkey(valkey_socket(sockets)),
}
"""How to wait for a server."""


def bring_up(
    supervisor: Supervisor, everything: Sequence[Program], ports: Mapping[str, int], sockets: Path
) -> str | None:
    """Returns the administrator's password if this start made one. Raises ready.Failed."""
    embedded = [program.name for program in everything if program.name in AWAITED]
    early = [program.name for program in everything if not program.needs_tables and program.name not in AWAITED]
    late = [program.name for program in everything if program.needs_tables]
    print(f"Starting {', '.join(embedded + early)}", flush=True)
    _start_servers(supervisor, embedded, sockets)
    pids = {name: supervisor.start(name) for name in early}
    print("Bringing the database up to date", flush=True)
    password = _migrate()
    print(f"Starting {', '.join(late)}", flush=True)
    pids |= {name: supervisor.start(name) for name in late}
    ready.wait(supervisor, pids, ports)
    return password


def _start_servers(supervisor: Supervisor, names: Sequence[str], sockets: Path) -> None:
    """Waits for an answer and not for a first attempt that holds: after a crash PostgreSQL may need a second one."""
    for name in names:
        supervisor.start(name)
    for name in names:
        try:
            AWAITED[name](sockets)
        except TimeoutError as error:
            raise ready.Failed(name, f"does not answer: {error}") from error


def _migrate() -> str | None:
    """In a session of its own, so that a Ctrl-C ends it once, by us."""
    done = subprocess.run(
        [sys.executable, "-m", "local.database"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        raise ready.Failed("The database", "was not brought up to date; the reason stands above")
    return done.stdout.strip() or None
