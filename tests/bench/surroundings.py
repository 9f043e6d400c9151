"""What all stacks share: one PostgreSQL, one Valkey, and mail servers, near and far, with TLS and without."""

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from local import servers
from tests.bench.child import Child
from tests.servers import Postgres, Server, Valkey


@dataclass(frozen=True, slots=True)
class Line:
    """The way to a mail server."""

    tls: bool = False
    """With STARTTLS and a log-in."""
    delay: int = 0
    """Milliseconds of a round trip."""

    def __str__(self) -> str:
        return f"{'TLS + log-in' if self.tls else 'plain'}, {self.delay} ms"


class DurablePostgres(Postgres):
    """PostgreSQL as it is shipped: a commit waits for the disk."""

    def _fast(self) -> servers.Command:
        servers.prepare_postgres(self.data, self.sockets)
        return servers.postgres_command(self.data, self.sockets, max_connections=str(self.MAX_CONNECTIONS))


class Sink(Child):
    """A mail server of tests/bench/sink.py on a line."""

    def __init__(self, directory: Path, line: Line) -> None:
        log = directory / f"sink-{line}.log"
        certificate = ["--certificate", str(directory / "certificate.pem")] if line.tls else []
        options = ["--delay", str(line.delay / 1000), *certificate]
        super().__init__(log, [sys.executable, "-m", "tests.bench.sink", *options], {})
        login, tls = ("bench:secret@", "?tls=1") if line.tls else ("", "")
        self.url = f"smtp://{login}localhost:{self.ask('port')}/{tls}"


class Surroundings:
    """`with Surroundings() as surroundings: …`"""

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable

    def __enter__(self) -> "Surroundings":
        self._ends = ExitStack()
        self.directory = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="postcommit-bench-")))
        _certify(self.directory / "certificate.pem")
        self.valkey = Valkey(self.directory / "vk")
        self.postgres = (DurablePostgres if self._durable else Postgres)(self.directory / "pg")
        for server in (self.valkey, self.postgres):
            server.start()
            self.stop_at_the_end(server)
        self._sinks: dict[Line, Sink] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def stop_at_the_end(self, process: Child | Server) -> None:
        self._ends.callback(process.stop)

    def sink(self, line: Line) -> Sink:
        """Return the mail server of a line, started when it is needed."""
        if line not in self._sinks:
            self._sinks[line] = Sink(self.directory, line)
            self.stop_at_the_end(self._sinks[line])
        return self._sinks[line]

    def create_database(self, name: str) -> None:
        with psycopg.connect(self._database_url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")

    def _database_url(self, name: str) -> str:
        return f"{self.postgres.url.rpartition('/')[0]}/{name}"

    def environment(self, database: str, email_url: str = "smtp://127.0.0.1:1") -> dict[str, str]:
        """Return the variables of a process: those of production, no others."""
        return {
            "ENV_FILES": "",
            "SECRET_KEY": "a-key-for-the-bench-" * 4,
            "SITE_URL": "https://bench.example.com",
            "DEFAULT_FROM_EMAIL": "Postcommit <hello@bench.example.com>",
            "DATABASE_URL": self._database_url(database),
            "REDIS_URL": self.valkey.url,
            "EMAIL_URL": email_url,
            "SSL_CERT_FILE": str(self.directory / "certificate.pem"),
        }


def _certify(file: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run(["openssl", "req", *kind, *subject, "-keyout", file, "-out", file], check=True, capture_output=True)
