"""A token endpoint over HTTPS, and a mail server over TLS that takes its tokens."""

import base64
import json
import secrets
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from tests.mailer.transports.raw_server import Peer, serving

CLIENT_SECRET = "Sec~ret.of_the-client8Q~9"
REFRESH_TOKEN = "1//0refresh-token-of-the-user"
USER = "noreply@shop.example"
ECHO = "{what was sent}"


@dataclass(slots=True)
class Answer:
    """An answer of the endpoint."""

    status: int = 200
    body: dict[str, Any] | str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Endpoint:
    """A token endpoint. It gives a new token each time, unless `answers` has something else."""

    def __init__(self) -> None:
        self.port = 0
        self.answers: deque[Answer | Callable[[], None]] = deque()
        """A function is called instead of an answer, and the connection is closed."""
        self.asked: list[dict[str, str]] = []
        """The form of each request for a token."""
        self.issued: list[str] = []
        self.token_length = 120
        self.more: dict[str, Any] = {"expires_in": 3600}
        """What stands beside a token."""

    @property
    def base(self) -> str:
        return f"https://localhost:{self.port}"

    def answer(self, form: dict[str, str] | None) -> Answer | Callable[[], None]:
        if form is None:
            address = f"{self.base}/tenant/oauth2/v2.0"
            return Answer(body={"token_endpoint": f"{address}/token", "authorization_endpoint": f"{address}/authorize"})
        self.asked.append(form)
        if self.answers:
            return _with_echo(self.answers.popleft(), form)
        self.issued.append(secrets.token_urlsafe(self.token_length))
        return Answer(body={"access_token": self.issued[-1], "token_type": "Bearer", **self.more})

    @contextmanager
    def serve(self, context: ssl.SSLContext) -> Iterator["Endpoint"]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(endpoint.answer(None))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.reply(endpoint.answer(dict(parse_qsl(body))))

            def reply(self, answer: Answer | Callable[[], None]) -> None:
                if not isinstance(answer, Answer):
                    return answer()
                body = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
                self.send_response(answer.status)
                for name, value in ({"Content-Length": str(len(body))} | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(body)
                return None

            def log_message(self, *_: object) -> None:
                """No lines on the terminal."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that hung up is part of a test."""

        with Server(("localhost", 0), Handler) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=[0.05])
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join(5)


def _with_echo(answer: Answer | Callable[[], None], form: dict[str, str]) -> Answer | Callable[[], None]:
    """Write what was sent, as it is and as in a URL, in the place of ECHO."""
    if isinstance(answer, Answer) and isinstance(answer.body, dict):
        sent = " ".join([*form.values(), urlencode(form)])
        answer.body = {n: v.replace(ECHO, sent) if isinstance(v, str) else v for n, v in answer.body.items()}
    return answer


@dataclass(slots=True)
class Login:
    """One AUTH, as the server saw it."""

    lines: list[bytes]
    """All lines of the client, from AUTH on."""
    response: str
    """The SASL response, decoded."""


class MailServer:
    """A mail server that takes the tokens that `is_valid` likes."""

    def __init__(self, is_valid: Callable[[str], bool]) -> None:
        self.is_valid = is_valid
        self.mechanisms = "LOGIN XOAUTH2"
        self.refusal = "535 5.7.3 Authentication unsuccessful"
        self.explains = True
        """It answers a refused token with 334 and JSON first, as Google does."""
        self.hangs_up = False
        self.echoes = False
        """It repeats in its refusal what it was told."""
        self.logins: list[Login] = []
        self.bodies: list[bytes] = []
        self.place = ""
        """Host and port."""

    @contextmanager
    def serve(self, context: ssl.SSLContext) -> Iterator["MailServer"]:
        with serving(self._talk, context=context) as self.place:
            yield self

    def url(self, **options: str) -> str:
        """Return an EMAIL_URL."""
        return f"smtps://{quote(USER, '')}@{self.place}/?{urlencode(options)}"

    def _talk(self, peer: Peer) -> None:
        peer.say(b"220 x\r\n")
        peer.lines.readline()
        peer.say(f"250-x\r\n250-8BITMIME\r\n250 AUTH {self.mechanisms}\r\n".encode())
        while True:
            line = peer.converse(b"AUTH")
            if not line or self._takes(peer, line):
                break
            if self.hangs_up:
                return
        peer.converse(b"nothing")
        self.bodies.append(peer.body)

    def _takes(self, peer: Peer, line: bytes) -> bool:
        lines, words = [line], line.split()
        if len(words) == 2:
            peer.say(b"334 \r\n")
            lines.append(peer.lines.readline())
        response = base64.b64decode(words[2] if len(words) == 3 else lines[-1]).decode()
        token = response.partition("auth=Bearer ")[2].rstrip("\1")
        self.logins.append(Login(lines, response))
        if self.is_valid(token):
            peer.say(b"235 2.7.0 Accepted\r\n")
            return True
        if self.explains:
            peer.say(b"334 " + base64.b64encode(b'{"status":"401","schemes":"bearer"}') + b"\r\n")
            lines.append(peer.lines.readline())
        echo = f" {line.decode().strip()} {token}" if self.echoes else ""
        peer.say(f"{self.refusal}{echo}\r\n".encode())
        return False
