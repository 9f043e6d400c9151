"""Other machines: processes with a slow name server, a wrong clock or another name."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from tests.faults.preloaded.sitecustomize import DOMAIN
from tests.stack import PROJECT

PRELOADED = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "preloaded"), str(PROJECT)])}


class SlowNames:
    """Names of this machine, which processes with its environment may find slowly."""

    def __init__(self, file: Path) -> None:
        self.environment = PRELOADED | {"NAMES": str(file)}
        self._file = file

    def host(self, name: str) -> str:
        """Return a host name."""
        return name + DOMAIN

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Make each look-up take so long."""
        self._file.write_text(str(seconds))
        yield
        self._file.unlink()


def clock(ahead: timedelta) -> dict[str, str]:
    """Return the environment of a process on a machine whose clock is wrong."""
    return PRELOADED | {"CLOCK_AHEAD": str(ahead.total_seconds())}


def machine(name: str) -> dict[str, str]:
    """Return the environment of a process on another machine."""
    return PRELOADED | {"HOST_NAME": name}
