"""The folder of the unix sockets: a socket's path holds about a hundred bytes, a checkout's path may be longer."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.servers import PORT

LONGEST = 100
"""107 bytes on Linux, 103 on macOS, less some for the suffix that a server adds while it binds."""


@contextmanager
def socket_dir(preferred: Path) -> Iterator[Path]:
    """The preferred folder, or a short-lived one with a short path where the preferred one would not do."""
    if len(os.fsencode(preferred / f".s.PGSQL.{PORT}")) <= LONGEST:
        preferred.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield preferred
    else:
        with tempfile.TemporaryDirectory(prefix="postcommit-") as short:
            yield Path(short)


def valkey_socket(directory: Path) -> Path:
    """Valkey's socket; PostgreSQL's has a name that nobody chooses."""
    return directory / "valkey.sock"


def supervisor_socket(directory: Path) -> Path:
    """The socket of supervisord's remote control."""
    return directory / "supervisor.sock"
