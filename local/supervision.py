"""Launch supervisord, and control it through its socket."""

import configparser
import http.client
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

from local import CannotStart
from local.environment import ROOT
from local.programs import CONFIGURATION, LOGS

GONE = (OSError, http.client.HTTPException)
"""What a call raises when supervisord is gone."""


@dataclass(frozen=True, slots=True)
class Process:
    """The state of one process."""

    state: str
    pid: int

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in ("STARTING", "RUNNING")


class Supervisor:
    """The remote control of a supervisord. Every call may raise one of GONE."""

    def __init__(self, url: str) -> None:
        self._url = url

    def is_there(self) -> bool:
        """Whether it answers. It does so until it has stopped everything."""
        try:
            self._call("getState")
        except Fault:  # it shuts down
            return True
        except GONE:
            return False
        return True

    def processes(self) -> dict[str, Process]:
        """Return every process by its name."""
        return {info["name"]: Process(info["statename"], info["pid"]) for info in self._call("getAllProcessInfo")}

    def start(self, name: str) -> int:
        """Start a process, without waiting for it. Return its pid, or 0 if it could not be launched."""
        try:
            self._call("startProcess", name, False)
        except Fault:
            return 0
        return self.processes()[name].pid

    def stop(self, name: str) -> None:
        """Stop a process and wait until it has ended."""
        with suppress(Fault):  # it does not run
            self._call("stopProcess", name, True)

    def shut_down(self) -> None:
        """Ask supervisord to stop everything in order and then to end; do not wait."""
        with suppress(Fault, *GONE):  # it is shutting down, or has ended
            self._call("shutdown")

    def _call(self, method: str, *arguments: object) -> Any:
        """Use one connection per call: an interrupted call then leaves none that waits for its answer."""
        transport = SupervisorTransport(None, None, self._url)
        with ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


def launch() -> "subprocess.Popen[bytes]":
    """Start supervisord in its own session, which a Ctrl-C in this terminal does not reach."""
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(CONFIGURATION)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def running(configuration: Path = CONFIGURATION) -> Supervisor | None:
    """Return the supervisor of this checkout, or None if it does not run."""
    parser = configparser.RawConfigParser()
    parser.read(configuration)
    url = parser.get("supervisorctl", "serverurl", fallback="")
    supervisor = Supervisor(url.replace("%%", "%")) if url else None
    return supervisor if supervisor and supervisor.is_there() else None


def await_launch(daemon: "subprocess.Popen[bytes]") -> Supervisor:
    """Wait until the launched supervisor answers. Raises CannotStart."""
    for _ in range(200):
        if supervisor := running():
            return supervisor
        if daemon.poll() is not None:
            break
        time.sleep(0.05)
    raise CannotStart(f"The supervisor did not start; see {LOGS / 'supervisord.log'}.")
