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

import psycopg
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


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = 30) -> None:
    """Wait until a condition holds. Raises TimeoutError, which names `what`."""
    deadline, pause = time.monotonic() + seconds, 0.02
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(pause)
        pause = min(1.2 * pause, 0.1)  # asking takes time, too: often a connection to PostgreSQL


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

    MAX_CONNECTIONS = 200

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
            max_connections=str(self.MAX_CONNECTIONS),
        )

    @contextlib.contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        """Change a setting of the running server, also for open connections."""
        self._administer(f"ALTER SYSTEM SET {name} = {value}")
        try:
            yield
        finally:
            self._administer(f"ALTER SYSTEM RESET {name}")

    def read_only(self) -> contextlib.AbstractContextManager[None]:
        """Refuse writes with SQLSTATE 25006, as a primary does that became a replica."""
        return self.setting("default_transaction_read_only", "on")

    @contextlib.contextmanager
    def refusing(self, sqlstate: str, *tables: str) -> Iterator[None]:
        """Refuse each change of these tables with an SQLSTATE, such as 53100 for a full disk."""
        trigger = "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION refuse();"
        self._administer(f"""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END $$;
            {" ".join(map(trigger.format, tables))}
        """)
        try:
            yield
        finally:
            self._administer("DROP FUNCTION refuse CASCADE")

    @contextlib.contextmanager
    def without_free_connections(self) -> Iterator[None]:
        """Close all connections, and take every one that the server can have: 53300."""
        others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND application_name <> 'taken'"
        )
        with contextlib.ExitStack() as taken:
            first = taken.enter_context(psycopg.connect(self.url, autocommit=True, application_name="taken"))
            for _ in range(20):  # those who lose their connection are quick to get another one
                first.execute(others)
                with contextlib.suppress(psycopg.OperationalError):
                    while True:
                        taken.enter_context(psycopg.connect(self.url, application_name="taken"))
            yield

    def _administer(self, statements: str) -> None:
        """Run statements as an administrator, who may write in any case, and make the server read its settings again."""
        with psycopg.connect(self.url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            connection.execute(statements)
            connection.execute("SELECT pg_reload_conf()")


class Valkey(Server):
    """Valkey with an append-only file, on a unix socket. `settings` are options of its command."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory, self.socket, self.settings = directory, directory / "s.sock", settings
        super().__init__(
            directory,
            lambda: servers.valkey_command(directory, self.socket, **self.settings),
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
    def as_replica(self) -> Iterator[None]:
        """Make it a replica of a primary that is away: it answers READONLY."""
        with self.client() as client:
            client.replicaof("127.0.0.1", "1")
            yield
            client.replicaof("NO", "ONE")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Give it a password that its clients do not have: it answers NOAUTH, and closes their connections."""
        with self.client() as client:
            client.config_set("requirepass", secrets.token_hex())
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub")
            yield
            client.config_set("requirepass", "")

    def restart_slowly(self, seconds: float) -> None:
        """Kill it, and start it with a file that takes so long to load. Until then it answers LOADING."""
        keys = 20_000  # it looks at its clients after every 1,024 commands of the file
        with self.client() as client, client.pipeline(transaction=False) as ballast:
            for number in range(keys):
                ballast.set(f"ballast-{number}", "")
            ballast.execute()
        self.stop(signal.SIGKILL)
        self.settings = self.settings | {"key_load_delay": str(round(seconds / keys * 1_000_000))}
        self.start()

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
