"""Show the logs of all processes as one stream. Each line begins with the name of its process."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class Follower:
    """Print the lines that processes add to their logs from now on."""

    def __init__(self, logs: Mapping[str, Path], out: TextIO = sys.stdout) -> None:
        self._out = out
        self._width = max(map(len, logs))
        self._tails = {name: _tail(log) for name, log in logs.items()}
        self.skip()

    def skip(self) -> None:
        """Skip the lines since the last call."""
        for tail in self._tails.values():
            next(tail)

    def show(self) -> None:
        """Print the complete lines since the last call."""
        for name, tail in self._tails.items():
            for line in next(tail):
                print(f"{name:<{self._width}} | {line}", file=self._out)
        self._out.flush()


def _tail(path: Path) -> Iterator[list[str]]:
    """Yield the complete lines since the last step. The supervisor renames a full log and begins a new one."""
    path.touch()
    log = path.open("rb")
    log.seek(0, os.SEEK_END)
    rest = b""
    try:
        while True:
            rest += log.read()
            with suppress(FileNotFoundError):  # the new file does not exist yet
                if not os.path.samestat(os.fstat(log.fileno()), path.stat()):
                    rest += log.read()  # what was written after the first read
                    log.close()
                    log = path.open("rb")
                    rest += log.read()
            *complete, rest = rest.split(b"\n")
            yield [line.decode(errors="replace").rstrip("\r") for line in complete]
    finally:
        log.close()
