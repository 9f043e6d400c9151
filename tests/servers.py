"""A PostgreSQL and a Valkey that tests can start, stop, freeze and kill."""

import contextlib
import os
import resource
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from local import servers


def free_port() -> int:
    """Return a free port of this machine.

    It is below the ephemeral ports of clients: otherwise a client could get it while its server is down, and even connect to
    itself.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)  # not `random`: parallel runs share its seed
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 15) -> None:
    """Wait until a condition holds. Raises TimeoutError, which names `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


class Server:
    """A server process that keeps its data between starts."""

    url: str

    def __init__(self, directory: Path, command: Callable[[], servers.Command], await_it: Callable[[], None]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "log"
        self._command, self._await = command, await_it
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = self._command()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                command.argv,
                cwd=command.directory,
                stdout=log,
                stderr=log,
                restore_signals=False,  # a full disk must be an error, not a signal that ends it
                **command.identity,
            )
        self._await()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it with a signal and wait. SIGINT is an orderly shutdown of both servers."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(20)
        self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze it: it accepts connections and does not answer."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


class Postgres(Server):
    """PostgreSQL without fsync, for speed: a crash of the process loses nothing, a power cut may."""

    def __init__(self, directory: Path) -> None:
        self.data, self.sockets = directory / "data", directory / "s"
        super().__init__(directory, self._fast, lambda: servers.await_postgres(self.sockets))
        self.url = servers.postgres_url(self.sockets)

    def _fast(self) -> servers.Command:
        servers.prepare_postgres(self.data, self.sockets)
        return servers.postgres_command(
            self.data,
            self.sockets,
            fsync="off",
            full_page_writes="off",
            max_connections="200",
        )


class Valkey(Server):
    """Valkey with an append-only file, on a unix socket. `settings` are options of its command."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory, self.socket = directory, directory / "s.sock"
        super().__init__(
            directory,
            lambda: servers.valkey_command(directory, self.socket, **settings),
            lambda: servers.await_valkey(self.socket),
        )
        self.url = servers.valkey_url(self.socket)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables of its clients."""
        return {"REDIS_URL": self.url}

    def client(self) -> redis.Redis:
        """Connect directly, without a proxy in between."""
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def forget(self) -> None:
        """Remove the file of a stopped server, so that it starts empty."""
        for file in self.directory.glob("appendonlydir/*"):
            file.unlink()

    @contextlib.contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """Make it refuse commands that need memory."""
        with self.client() as client:
            client.config_set("maxmemory", 1)
            yield
            client.config_set("maxmemory", 0)

    @contextlib.contextmanager
    def disk_full(self) -> Iterator[None]:
        """Stop its files from growing (Linux only), so that it refuses writes."""
        assert self.process is not None
        limits = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)
