"""A TCP proxy between a server and its clients that can fail alone."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import free_port


@dataclass(slots=True)
class Strand:
    """The state that connections share until the next silence. A silent strand carries nothing and closes nothing."""

    silent: bool = False


class Cable:
    """Forward TCP from its own port to a server's, and fall silent without an error on either side.

    A firewall that forgot its connections, or a machine without power, loses what is sent in this way.
    """

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self._server_port = server_port
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
        self._strand = Strand()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Also silence connections made meanwhile: they are accepted and get no answer."""
        self._strand.silent = True
        yield
        self._strand = Strand()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._sockets[0].accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._carry, args=[self._strand, source, sink]))
                    self._threads[-1].start()

    def _carry(self, strand: Strand, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not strand.silent:
                    sink.sendall(data)
            if not strand.silent:
                sink.shutdown(socket.SHUT_WR)
