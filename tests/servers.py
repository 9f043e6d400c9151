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
    """A port of this machine that nothing listens on.

    It lies below the ports that systems hand to clients: one of those could take it while its server is down, and a client
    that knocks there would now and then be connected to itself.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)  # not `random`, whose seed parallel runs share
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 15) -> None:
    """Waits until a condition holds. Raises TimeoutError, and says what was waited for, when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


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
                command.argv,
                cwd=command.directory,
                stdout=log,
                stderr=log,
                restore_signals=False,  # it goes on when its disk is full, as it does where that is no signal
                **command.identity,
            )
        self._await()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it with a signal and waits; SIGINT is PostgreSQL's fast shutdown and Valkey's orderly one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(20)
        self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
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
    """Valkey with its append-only file, on a unix socket; `settings` as for the command."""

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
        """What a process needs to find it."""
        return {"REDIS_URL": self.url}

    def client(self) -> redis.Redis:
        """A connection past whatever stands between it and the processes."""
        return redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)

    def forget(self) -> None:
        """Removes the file of one that is stopped: it will come back empty."""
        for file in self.directory.glob("appendonlydir/*"):
            file.unlink()

    @contextlib.contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """Refuses whatever would need memory, and answers everything else."""
        with self.client() as client:
            client.config_set("maxmemory", 1)
            yield
            client.config_set("maxmemory", 0)

    @contextlib.contextmanager
    def disk_full(self) -> Iterator[None]:
        """Lets no file of it grow (Linux only), so it refuses every write, and answers everything else."""
        assert self.process is not None
        limits = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)
