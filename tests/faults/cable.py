"""A TCP proxy between a server and its clients that can be slow, and that can lose everything, as a network does."""

import contextlib
import ctypes
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import free_port

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
DROP_EVERYTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A program of one instruction for Linux's packet filter: keep no octet of any packet."""


@dataclass(slots=True)
class Strand:
    """The state that connections share until the next silence. A silent strand carries nothing and closes nothing."""

    silent: bool = False
    clients: list[socket.socket] = field(default_factory=list)


class Cable:
    """Forward TCP from its own port to a server, which is a port of this machine or a Unix socket.

    On Linux the kernel drops the packets of a silent connection, so that the client gets no acknowledgement either: a firewall
    that forgot its connections, or a machine without power. Elsewhere they are taken and never answered.
    """

    def __init__(self, server: int | Path) -> None:
        self.port = free_port()
        self.delay = 0.0
        """Seconds that each answer of the server takes longer."""
        self._server = server
        self._strand = Strand()

    def __enter__(self) -> "Cable":
        self._sockets = [socket.create_server(("127.0.0.1", self.port))]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        for thread in self._threads:
            thread.join(5)
        for connection in self._sockets:
            connection.close()

    def silence(self) -> None:
        """Silence the present connections for ever. New connections work."""
        self._strand.silent = True
        for client in self._strand.clients:
            drop_packets(client)
        self._strand = Strand()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Also lose the packets of new connections meanwhile."""
        self.silence()
        self._strand.silent = True
        drop_packets(self._sockets[0])
        try:
            yield
        finally:
            self._strand = Strand()
            take_packets(self._sockets[0])

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._sockets[0].accept()
                try:
                    server = self._connect()
                except OSError:  # as where no server listens
                    client.close()
                    continue
                self._sockets += [client, server]
                self._strand.clients.append(client)
                for source, sink, delays in ((client, server, False), (server, client, True)):
                    thread = threading.Thread(target=self._carry, args=[self._strand, source, sink, delays])
                    self._threads.append(thread)
                    thread.start()

    def _connect(self) -> socket.socket:
        if isinstance(self._server, int):
            return socket.create_connection(("127.0.0.1", self._server))
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._server))
        except OSError:
            server.close()
            raise
        return server

    def _carry(self, strand: Strand, source: socket.socket, sink: socket.socket, delays: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if delays and self.delay:
                    time.sleep(self.delay)
                if not strand.silent:
                    sink.sendall(data)
            if not strand.silent:
                sink.shutdown(socket.SHUT_WR)


def drop_packets(connection: socket.socket) -> None:
    """Make the kernel drop what comes in for a connection, or new connections of a listening socket; unacknowledged."""
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(DROP_EVERYTHING)
        with contextlib.suppress(OSError):  # it may be closed already
            connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def take_packets(connection: socket.socket) -> None:
    """Undo `drop_packets`."""
    if sys.platform == "linux":
        connection.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
