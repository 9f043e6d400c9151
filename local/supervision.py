"""Launch supervisord, and control it through its socket."""

import http.client
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

from supervisor.options import ClientOptions  # type: ignore[import-untyped]

from local import CannotStart
from local.environment import ROOT
from local.programs import CONFIGURATION, LOGS

GONE = (OSError, http.client.HTTPException)
"""What a call raises when supervisord is gone."""


def launch() -> "subprocess.Popen[bytes]":
    """Start supervisord in its own session, so that Ctrl-C in this terminal does not reach it."""
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(CONFIGURATION)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def await_launch(daemon: "subprocess.Popen[bytes]") -> None:
    """Wait until the launched supervisord answers. Raises CannotStart."""
    for _ in range(200):
        if daemon.poll() is not None:
            break
        if is_running():
            return
        time.sleep(0.05)
    raise CannotStart(f"The supervisor did not start; see {LOGS / 'supervisord.log'}.")


def is_running(configuration: Path = CONFIGURATION) -> bool:
    """Return whether supervisord answers. It does until it has stopped everything."""
    try:
        return configuration.exists() and bool(_call("getState", configuration=configuration))
    except Fault:  # it shuts down
        return True
    except GONE:
        return False


def pids(configuration: Path = CONFIGURATION) -> dict[str, int]:
    """Return the pid of every process, 0 if it does not run."""
    return {info["name"]: info["pid"] for info in _call("getAllProcessInfo", configuration=configuration)}


def start(name: str) -> int:
    """Start a process, without waiting for it. Return its pid, or 0 if it could not be launched."""
    with suppress(Fault):
        _call("startProcess", name, False)
    return pids()[name]


def stop(name: str) -> None:
    """Stop a process and wait until it has ended."""
    with suppress(Fault):  # it does not run
        _call("stopProcess", name, True)


def shut_down() -> None:
    """Ask supervisord to stop everything in order and then to end; do not wait."""
    with suppress(Fault, *GONE):  # it is shutting down, or has ended
        _call("shutdown")


def _call(method: str, *arguments: object, configuration: Path = CONFIGURATION) -> Any:
    """Call supervisord over a new connection, because an interrupted call would leave its answer in a shared one."""
    options = ClientOptions()
    options.realize(["--configuration", str(configuration)])
    with options.getServerProxy() as proxy:
        return getattr(proxy.supervisor, method)(*arguments)
