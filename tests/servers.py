"""A PostgreSQL and a Valkey that tests can start, stop, freeze and kill."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from local import servers


class Server:
    """One server process that keeps its data between starts."""

    url: str

    def __init__(self, directory: Path, command: Callable[[], servers.Command], await_it: Callable[[], None]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "log"
        self._command, self._await = command, await_it
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command = self._command()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                command.argv, cwd=command.directory, stdout=log, stderr=log, **command.identity
            )
        self._await()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it with a signal and waits; SIGINT is PostgreSQL's fast shutdown and Valkey's orderly one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(20)
        self.process = None

    @contextlib.contextmanager
    def frozen(self):  # type: ignore[no-untyped-def]
        """Stops it in its tracks: connections are taken, and nobody answers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


class Postgres(Server):
    """PostgreSQL, forgetful at power cuts for the sake of speed; a crash of its own loses nothing that was committed."""

    def __init__(self, directory: Path) -> None:
        self.data, self.sockets = directory / "data", directory / "s"
        super().__init__(directory, self._fast, lambda: servers.await_postgres(self.sockets))
        self.url = servers.postgres_url(self.sockets)

    def _fast(self) -> servers.Command:
        servers.prepare_postgres(self.data, self.sockets, durable=False)
        return servers.postgres_command(
            self.data,
            self.sockets,
            fsync="off",
            full_page_writes="off",
            max_connections="200",
        )


class Valkey(Server):
    """Valkey with its append-only file."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "s.sock"
        super().__init__(
            directory,
            lambda: servers.valkey_command(directory, self.socket),
            lambda: servers.await_valkey(self.socket),
        )
        self.url = servers.valkey_url(self.socket)
