"""A copy of this checkout for `make`, without installing anything and without leaving anything behind."""

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

from local import supervision
from local.environment import ADDRESS, PORTS, read

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (".git", ".venv", ".local", ".env", "tests", "static-collected", ".*_cache", ".hypothesis")
LAST_WORDS = "stops everything in order."
"""The end of the last line of `make start` before the logs."""


class Checkout:
    """The copy, with free ports and the virtual environment of this test run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))

    @property
    def variables(self) -> dict[str, str]:
        """The variables of .local/env."""
        return read(self.root / ".local" / "env")

    @property
    def pids(self) -> dict[str, int]:
        """The processes under the supervisor, none if it does not run."""
        configuration = self.root / ".local" / "supervisord.conf"
        return supervision.pids(configuration) if supervision.is_running(configuration) else {}

    @property
    def supervisor_log(self) -> str:
        """The log of supervisord."""
        return (self.root / ".local" / "log" / "supervisord.log").read_text()

    def make(self, target: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a target that ends by itself."""
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
    def started(self, **variables: str) -> Iterator["Start"]:
        """Run `make start` until all processes run. Kill at the end what is left."""
        with (self.root / "output").open("w+") as output:
            process = subprocess.Popen(
                self._command("start"),
                env=self._environment | variables,
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
                self._kill_the_rest(process)

    def status(self, variable: str, path: str = "/") -> int:
        """Return the HTTP status of the process behind a port."""
        return self.page(variable, path)[0]

    def page(self, variable: str, path: str = "/") -> tuple[int, str]:
        """Return the HTTP status and the text of a page of the process behind a port."""
        connection = http.client.HTTPConnection("localhost", self.ports[variable], timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def _command(self, target: str) -> list[str]:
        return ["make", "--old-file=setup", target, f"VENV={sys.prefix}"]  # setup has its own test

    @property
    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
        return kept | {variable: str(port) for variable, port in self.ports.items()}

    def _kill_the_rest(self, process: "subprocess.Popen[bytes]") -> None:
        """The supervisor and each process under it lead their own process groups."""
        pids = [process.pid]
        with contextlib.suppress(OSError, http.client.HTTPException):
            pids += filter(None, self.pids.values())
        with contextlib.suppress(FileNotFoundError):
            pids.insert(0, int((self.root / ".local" / "supervisord.pid").read_text()))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        process.wait(10)


class Start:
    """A running `make start`."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def output(self) -> str:
        """The output so far."""
        return self._output.read_text()

    def presses_ctrl_c(self) -> None:
        """Send the signal to the whole process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self) -> int:
        """Wait for the end. Return the exit status."""
        return self.process.wait(60)


def wait_until(condition: Callable[[], bool], patience: float = 60.0) -> None:
    """Raises TimeoutError if the condition does not become true in time."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server((ADDRESS, 0))).getsockname()[1] for _ in range(count)]
