"""A server of which a test writes every octet: it drips, hangs, resets."""

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

REPLIES = {b"EHLO": b"250-x\r\n250-PIPELINING\r\n250 8BITMIME\r\n", b"QUIT": b"221 x\r\n"}


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.lines = connection.makefile("rb")
        self.body = b""
        """The octets after DATA, up to the dot or to the end of the connection."""

    def say(self, reply: bytes, *, pieces: int = 0, pause: float = 0.0) -> None:
        """Send a reply, in pieces of so many octets."""
        for start in range(0, len(reply), pieces or len(reply) or 1):
            self.connection.sendall(reply[start : start + (pieces or len(reply))])
            time.sleep(pause)

    def converse(self, until: bytes) -> bytes:
        """Answer as a server does, until this command comes, or `.` for the end of a message. Return the line, unanswered."""
        for line in self.lines:
            verb = line[:4].upper()
            if verb.startswith(until):
                return line
            self.say(REPLIES.get(verb, b"354 go on\r\n" if verb == b"DATA" else b"250 2.0.0 ok\r\n"))
            if verb == b"DATA" and self.receive_body():
                if until == b".":
                    return b"."
                self.say(b"250 2.0.0 ok\r\n")
        return b""

    def greet(self, until: bytes) -> bytes:
        self.say(b"220 x\r\n")
        return self.converse(until)

    def receive_body(self) -> bool:
        """Return whether it came to its end."""
        self.body = b""
        for line in self.lines:
            if line == b".\r\n":
                return True
            self.body += line
        return False

    def reset(self) -> None:
        """Close with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.lines.close()
        self.connection.close()


@contextmanager
def serving(talk: Callable[[Peer], object], *, context: ssl.SSLContext | None = None, buffer: int = 0) -> Iterator[str]:
    """Let `talk` have each connection, in a thread of its own. Yields host and port, as in a URL.

    `buffer` limits what the system receives before `talk` reads it.
    """
    threads: list[Thread] = []
    ends: list[socket.socket] = []

    def serve(end: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if context:
                end = context.wrap_socket(end, server_side=True)
                ends.append(end)
            with end:
                peer = Peer(end)
                with peer.lines:
                    talk(peer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                end, _ = listener.accept()
                ends.append(end)
                threads.append(Thread(target=serve, args=[end]))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        threads.append(Thread(target=accept))
        threads[0].start()
        try:
            yield f"localhost:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(5)
