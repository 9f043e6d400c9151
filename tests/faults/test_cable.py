"""The cable: a network that is slow, or that loses everything, between real sockets."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.environment import new_directory
from tests.faults.cable import Cable
from tests.servers import Valkey, free_port

PATIENCE = 5.0


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=serve, args=[server])
        thread.start()
        yield port
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def serve(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            threading.Thread(target=send_back, args=[server.accept()[0]], daemon=True).start()


def send_back(client: socket.socket) -> None:
    with client, suppress(OSError):
        while data := client.recv(100):
            client.sendall(data)


def connect(cable: Cable, timeout: float = PATIENCE) -> socket.socket:
    return socket.create_connection(("127.0.0.1", cable.port), timeout=timeout)


def ask(connection: socket.socket, what: bytes = b"?") -> float:
    """Send and receive. Return the seconds that it took."""
    began = time.monotonic()
    connection.sendall(what)
    assert connection.recv(100) == what
    return time.monotonic() - began


def test_it_carries_both_ways_and_delays_answers(echo: int) -> None:
    with Cable(echo) as cable, connect(cable) as connection:
        assert ask(connection) < 0.2
        cable.delay = 0.3
        assert 0.3 <= ask(connection) < 1


def test_it_reaches_a_unix_socket() -> None:
    server = Valkey(new_directory("cable") / "vk")
    server.start()
    with Cable(server.socket) as cable, connect(cable) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
    server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="drops packets in Linux's kernel")
def test_packets_of_a_silent_connection_are_not_acknowledged(echo: int) -> None:
    with Cable(echo) as cable, connect(cable) as connection:
        ask(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
        cable.silence()

        with pytest.raises(TimeoutError, match="Connection timed out"):  # the kernel's, not the socket's own
            ask(connection)
        with connect(cable) as new:
            ask(new)


@pytest.mark.skipif(sys.platform != "linux", reason="drops packets in Linux's kernel")
def test_nothing_connects_while_it_is_silent(echo: int) -> None:
    with Cable(echo) as cable:
        with cable.silent(), pytest.raises(TimeoutError):
            connect(cable, timeout=0.3)
        with connect(cable) as connection:
            ask(connection)


def test_a_server_that_is_away_refuses(tmp_path: Path) -> None:
    with Cable(tmp_path / "nobody") as cable, connect(cable) as connection:
        assert connection.recv(1) == b""
