"""A mail server that costs little: it accepts every mail and notes when. A process of its own.

It offers PIPELINING, 8BITMIME, and with a certificate STARTTLS and AUTH. A delay holds back each answer as a distant network
would: commands that arrive together are answered together.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time

END = b"\r\n.\r\n"
HANDSHAKE = 2
"""Round trips before the first answer of a connection: TCP's own handshake, and the greeting's way. Also after STARTTLS."""

accepted: dict[str, float] = {}
"""The time (Unix) by recipient."""
sizes: list[int] = []
"""The octets of each mail."""


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self, context: ssl.SSLContext | None, delay: float) -> None:
        self.context, self.delay = context, delay
        self.waiting = b""
        self.is_body = self.is_encrypted = self.is_shaking_hands = False
        self.round_trips = HANDSHAKE
        self.recipient = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.answer(b"220 sink.example\r\n")

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        if self.is_shaking_hands:  # the first line may come before this side has the encrypted transport
            return
        answers = bytearray()
        while (end := self.waiting.find(END if self.is_body else b"\r\n")) >= 0:
            line, self.waiting = self.waiting[:end], self.waiting[end + (5 if self.is_body else 2) :]
            answers += self.end_of_body(line) if self.is_body else self.command(line)
        if answers:
            self.answer(bytes(answers))

    def answer(self, lines: bytes) -> None:
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay * self.round_trips, self.write, lines)
        else:
            self.write(lines)
        self.round_trips = 1

    def write(self, lines: bytes) -> None:
        if lines.startswith(b"220 TLS"):
            self.transport.pause_reading()  # what comes next is encrypted
            self.handshake = asyncio.ensure_future(self.encrypt())
        self.transport.write(lines)
        if lines.startswith(b"221"):
            self.transport.close()

    async def encrypt(self) -> None:
        assert self.context is not None
        self.is_shaking_hands, self.round_trips = True, HANDSHAKE
        loop = asyncio.get_running_loop()
        encrypted = await loop.start_tls(self.transport, self, self.context, server_side=True)
        assert encrypted is not None
        self.transport, self.is_encrypted, self.is_shaking_hands = encrypted, True, False
        self.data_received(b"")

    def command(self, line: bytes) -> bytes:
        match line[:4].upper():
            case b"EHLO":
                secure = [] if self.context is None else [b"AUTH PLAIN"] if self.is_encrypted else [b"STARTTLS"]
                offered = [b"sink.example", b"PIPELINING", b"8BITMIME", *secure]
                return b"\r\n".join([*(b"250-" + each for each in offered[:-1]), b"250 " + offered[-1], b""])
            case b"STAR":
                return b"220 TLS\r\n"
            case b"AUTH":
                return b"235 2.7.0 Welcome\r\n"
            case b"RCPT":
                self.recipient = line[line.index(b"<") + 1 : line.index(b">")].decode()
                return b"250 2.1.5 Ok\r\n"
            case b"DATA":
                self.is_body = True
                return b"354 Go on\r\n"
            case b"QUIT":
                return b"221 Bye\r\n"
            case _:
                return b"250 2.0.0 Ok\r\n"

    def end_of_body(self, body: bytes) -> bytes:
        self.is_body = False
        sizes.append(len(body))
        accepted[self.recipient] = time.time()
        return b"250 2.0.0 Ok: queued\r\n"


def answer_question(port: int) -> None:
    """Answer a line of stdin: `port`, `count`, `sizes`, `times` or `forget`."""
    line = sys.stdin.readline().strip()
    if not line:
        sys.exit()  # the bench has ended
    answers = {"port": port, "count": len(accepted), "sizes": sizes, "times": accepted, "forget": None}
    print(json.dumps(answers[line]), flush=True)
    if line == "forget":
        accepted.clear()
        sizes.clear()


async def serve(certificate: str, delay: float) -> None:
    """Listen on a free port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
    if context is not None:
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Conversation(context, delay), "127.0.0.1", 0)
    loop.add_reader(sys.stdin.fileno(), answer_question, server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate", default="")
    parser.add_argument("--delay", type=float, default=0.0)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.certificate, arguments.delay))
