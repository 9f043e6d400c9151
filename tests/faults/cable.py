"""What stands between a server and its clients and can fail alone."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import free_port


@dataclass(slots=True)
class Strand:
    """What the connections of one time share; a silent one carries nothing any more, and closes nothing."""

    silent: bool = False


class Cable:
    """A port of its own, and TCP from there to a server's; it can fall silent without either end hearing of it.

    That is what a firewall does that forgot its connections, or a machine that lost its power: what is sent is lost, and
    no error ever comes.
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
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
        for thread in self._threads:
            thread.join(5)
        for connection in self._sockets:
            connection.close()

    def silence(self) -> None:
        """Whatever is connected now hears nothing any more, for ever; who connects anew is served."""
        self._strand.silent = True
        self._strand = Strand()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The same, and so for whoever connects meanwhile: the connection is taken, and nobody answers."""
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
