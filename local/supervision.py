"""supervisord from the outside: to launch it, to ask it, to tell it."""

import configparser
import http.client
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

from local import CannotStart
from local.environment import ROOT
from local.programs import CONFIGURATION, LOGS

GONE = (OSError, http.client.HTTPException)
"""What a call raises when nobody listens on the socket any more."""


@dataclass(frozen=True, slots=True)
class Process:
    """What the supervisor knows of one process."""

    state: str
    pid: int

    @property
    def is_alive(self) -> bool:
        """Whether it runs, as far as one can tell so far."""
        return self.state in ("STARTING", "RUNNING")


class Supervisor:
    """The remote control of a supervisord. Every call may raise one of GONE."""

    def __init__(self, url: str) -> None:
        self._url = url

    def is_there(self) -> bool:
        """Whether it answers, on its way out too."""
        try:
            self._call("getState")
        except Fault:  # what it says of itself while it shuts down
            return True
        except GONE:
            return False
        return True

    def processes(self) -> dict[str, Process]:
        """Every process by its name."""
        return {info["name"]: Process(info["statename"], info["pid"]) for info in self._call("getAllProcessInfo")}

    def start(self, name: str) -> int:
        """Starts a process without waiting for it; returns its pid, 0 when it could not even be launched."""
        try:
            self._call("startProcess", name, False)
        except Fault:
            return 0
        return self.processes()[name].pid

    def stop(self, name: str) -> None:
        """Stops a process and waits until it has ended."""
        try:
            self._call("stopProcess", name, True)
        except Fault:  # it does not run, which is what is wanted
            return

    def shut_down(self) -> None:
        """Tells it to stop everything in order and then to end; does not wait."""
        try:
            self._call("shutdown")
        except (Fault, *GONE):  # it is doing so already, or has done
            return

    def _call(self, method: str, *arguments: object) -> Any:
        """One connection a call: an interrupted call leaves none behind that waits for an answer."""
        transport = SupervisorTransport(None, None, self._url)
        with ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


def launch() -> "subprocess.Popen[bytes]":
    """Starts supervisord in a session of its own: a Ctrl-C in this terminal reaches neither it nor its children."""
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
    """The supervisor of this checkout, None when there is none at work."""
    parser = configparser.RawConfigParser()
    parser.read(configuration)
    url = parser.get("supervisorctl", "serverurl", fallback="")
    supervisor = Supervisor(url.replace("%%", "%")) if url else None
    return supervisor if supervisor and supervisor.is_there() else None


def await_launch(daemon: "subprocess.Popen[bytes]") -> Supervisor:
    """Waits until the supervisor that was launched answers."""
    for _ in range(200):
        if supervisor := running():
            return supervisor
        if daemon.poll() is not None:
            break
        time.sleep(0.05)
    raise CannotStart(f"The supervisor did not start; {LOGS / 'supervisord.log'} may say why.")
