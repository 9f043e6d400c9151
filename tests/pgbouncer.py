"""A real pgbouncer in transaction mode on a free port of loopback, in front of a test's PostgreSQL."""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Self

import psycopg
import pytest

from local import servers
from tests.servers import Server, free_port, wait_until

SETTINGS = """\
[databases]
* = host={sockets} port={server_port} user={superuser}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
"""
"""pgbouncer(5). Few connections that are lent in turn: two transactions of a client rarely get the same one."""


class PgBouncer(Server):
    """`with PgBouncer(directory, sockets) as pooler: …` `pooler.url` is a DATABASE_URL of the project."""

    def __init__(self, directory: Path, sockets: Path) -> None:
        """Take its own folder, and the one with PostgreSQL's sockets."""
        self.port = free_port()
        self._directory, self._sockets = directory, sockets
        super().__init__(directory, self._prepared, lambda: wait_until(self._answers, "pgbouncer to answer"))
        self.url = f"postgres://anyone@127.0.0.1:{self.port}/{servers.DATABASE}?disable_server_side_cursors=true"

    def __enter__(self) -> Self:
        try:
            self.start()
        except TimeoutError as error:
            self.__exit__()
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGTERM)

    def _prepared(self) -> servers.Command:
        self._directory.chmod(0o755)  # another user reads the file
        file = self._directory / "pgbouncer.ini"
        names = {"sockets": self._sockets, "server_port": servers.PORT, "superuser": servers.SUPERUSER}
        file.write_text(SETTINGS.format(port=self.port, **names))
        user = servers.SYSTEM_USER if os.geteuid() == 0 else None  # it refuses to run as root
        return servers.Command((str(program()), str(file)), self._directory, user)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(self.url.partition("?")[0]):
            return True
        return False


def program() -> Path:
    """Return the path of pgbouncer. Skips the test if it is missing, and says so."""
    path = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip("NOTHING WAS TESTED BEHIND PGBOUNCER: it was not found. Install it (apt-get install pgbouncer).")
    return Path(path)
