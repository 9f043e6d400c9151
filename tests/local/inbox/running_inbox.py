"""A real inbox in a process, with SMTP and HTTP clients."""

import http.client
import json
import os
import re
import smtplib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ROOT = Path(__file__).parents[3]
STARTED = re.compile(r"SMTP on \S+:(\d+), pages on http://\S+:(\d+)/")


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def command(directory: Path, smtp_port: int = 0, port: int = 0) -> list[str]:
    """Return the command of an inbox. Port 0 is any free one."""
    ports = ["--smtp-port", str(smtp_port), "--port", str(port)]
    return [sys.executable, "-m", "local.inbox", *ports, "--directory", str(directory)]


class RunningInbox:
    """An inbox without environment variables, because it needs none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_file = directory.with_suffix(".log")
        with self.log_file.open("wb") as log:
            environment = {"PATH": os.environ["PATH"]}
            self.process = subprocess.Popen(command(directory), stderr=log, cwd=ROOT, env=environment)
        self.smtp_port, self.port = self._ports()

    def _ports(self) -> tuple[int, int]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            if started := STARTED.search(self.log):
                return int(started[1]), int(started[2])
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the inbox did not start: {self.log}")

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> int:
        """Ask it to end. Return its exit status."""
        self.process.terminate()
        return self.process.wait(10)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self.process.kill()
        self.process.wait(10)

    def smtp(self) -> smtplib.SMTP:
        """Open a connection."""
        return smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=20)

    def send(
        self, source: bytes, sender: str = "shop@example.com", recipients: Sequence[str] = ("ann@example.com",)
    ) -> str:
        """Send these bytes. Return the id of the message."""
        with self.smtp() as smtp:
            smtp.ehlo()
            smtp.mail(sender, ["BODY=8BITMIME"])
            for recipient in recipients:
                smtp.rcpt(recipient)
            status, reply = smtp.data(source)
        assert status == 250, reply
        return reply.decode().rpartition(" ")[2]

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one HTTP request with exactly these headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def found(self, query: str = "") -> list[dict[str, Any]]:
        """Return the messages that the API lists."""
        messages: list[dict[str, Any]] = self.ask(f"/api/messages?{urlencode({'q': query})}").json["messages"]
        return messages
