"""Run Python code in new processes with Django set up. They are forks of one, because a start takes more than a second."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parent.parent
DIGITS = 10
"""Of a process's id, as it is sent."""


class Shell:
    """The process that others are forks of. The variables of its environment are those that the settings read."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="postcommit-shell-")  # a socket needs a short path
        self._path = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self._path)
            server.listen()
            command = [sys.executable, "-m", "tests.shell", str(server.fileno())]
            self._process = subprocess.Popen(command, cwd=PROJECT, env=environment, pass_fds=[server.fileno()])

    def run(self, script: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        """Run a script to its end, with further variables."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            output, errors = Path(folder, "output"), Path(folder, "errors")
            status = self.start(script, environment, output, errors).wait()
            return subprocess.CompletedProcess("script", status, output.read_text(), errors.read_text())

    def start(self, script: str, environment: Mapping[str, str], output: Path, errors: Path) -> "Fork":
        """Begin to run a script, which appends to these files."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self._path)
        client.sendall(json.dumps([script, dict(environment), str(output), str(errors)]).encode() + b"\n")
        return Fork(client)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._folder.cleanup()


class Fork:
    """A process that leads a session, with the methods of a Popen that tests need."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        number = client.recv(DIGITS, socket.MSG_WAITALL)
        assert number, "Django could not be set up"
        self.pid = int(number)
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit status. Raises TimeoutExpired."""
        if (status := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired("fork", timeout or 0)
        return status

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        if self._status is None and select.select([self._client], [], [], timeout)[0]:
            self._status = int(self._client.recv(DIGITS))
            self._client.close()
        return self._status


def _serve(server: socket.socket) -> NoReturn:
    """Answer each connection in a fork, which runs the script in another one and says how that ended."""
    while True:
        client, _ = server.accept()
        if not os.fork():
            server.close()
            _answer(client)
        client.close()
        os.waitpid(-1, os.WNOHANG)


def _answer(client: socket.socket) -> NoReturn:
    with client.makefile("r") as request:
        script, environment, *outputs = json.loads(request.readline())
    if not (child := os.fork()):
        client.close()
        _run(script, environment, outputs)
    try:
        client.sendall(f"{child:{DIGITS}}".encode())
        client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    finally:
        os._exit(0)  # also if the test has gone


def _run(script: str, environment: Mapping[str, str], outputs: list[str]) -> NoReturn:
    os.setsid()
    for descriptor, name in enumerate(outputs, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
    os.environ.update(environment)
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})  # noqa: S102 - a test's own code
    sys.exit()


if __name__ == "__main__":
    import django

    django.setup()
    _serve(socket.socket(fileno=int(sys.argv[1])))
