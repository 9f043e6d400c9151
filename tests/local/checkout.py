"""A copy of this checkout in which `make` can be run as a person would, with nothing installed and nothing left behind."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from local.environment import ADDRESS, PORTS, read
from local.supervision import Process, running

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".git", ".venv", ".local", ".env", "tests", "static-collected", "__pycache__", ".*_cache", ".hypothesis")
LAST_WORDS = "stops everything in order."
"""What `make start` says once everything runs."""


class Checkout:
    """The copy, with free ports and the virtual environment of this test run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))

    @property
    def variables(self) -> dict[str, str]:
        """What .local/env says."""
        return read(self.root / ".local" / "env")

    @property
    def processes(self) -> dict[str, Process]:
        """What runs under the supervisor; nothing when there is none."""
        supervisor = running(self.root / ".local" / "supervisord.conf")
        return supervisor.processes() if supervisor else {}

    @property
    def history(self) -> str:
        """What supervisord wrote down."""
        return (self.root / ".local" / "log" / "supervisord.log").read_text()

    def make(self, target: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs a target that ends by itself."""
        return subprocess.run(
            self._command(target),
            env=self._environment | variables,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    @contextlib.contextmanager
    def started(self) -> Iterator["Start"]:
        """`make start` in a terminal of its own, until everything runs; whatever is left at the end is killed."""
        with (self.root / "output").open("w+") as output:
            process = subprocess.Popen(
                self._command("start"),
                env=self._environment,
                cwd=self.root,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                start = Start(process, self.root / "output")
                wait_until(lambda: LAST_WORDS in start.output or process.poll() is not None)
                yield start
            finally:
                self._kill_what_is_left(process)

    def status(self, variable: str, path: str = "/") -> int:
        """What the process behind a port answers."""
        connection = http.client.HTTPConnection("localhost", self.ports[variable], timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def _command(self, target: str) -> list[str]:
        return ["make", "--old-file=setup", target, f"VENV={sys.prefix}"]  # setup has a test of its own

    @property
    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
        return kept | {variable: str(port) for variable, port in self.ports.items()}

    def _kill_what_is_left(self, process: "subprocess.Popen[bytes]") -> None:
        """Each process under the supervisor leads a group of its own, and so does the supervisor."""
        pids = [process.pid]
        with contextlib.suppress(OSError, http.client.HTTPException):
            pids += [child.pid for child in self.processes.values() if child.pid]
        with contextlib.suppress(FileNotFoundError):
            pids.insert(0, int((self.root / ".local" / "supervisord.pid").read_text()))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        process.wait(10)


class Start:
    """A `make start` that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        """What it said so far."""
        return self._output.read_text()

    def presses_ctrl_c(self) -> None:
        """A terminal sends the signal to everything that runs in it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self) -> int:
        """Waits for the end; returns the exit status."""
        return self.process.wait(60)


def wait_until(condition: Callable[[], bool], patience: float = 60.0) -> None:
    """Raises TimeoutError when the condition does not become true in time."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server((ADDRESS, 0))).getsockname()[1] for _ in range(count)]
