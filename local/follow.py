"""Show the logs of all processes as one stream. Each line begins with the name of its process."""

import os
import sys
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TextIO

COLOURS = (36, 33, 32, 35, 34, 31, 96)
"""ANSI: cyan, yellow, green, magenta, blue, red, bright cyan."""

CHUNK = 64 * 1024


class Follower:
    """Print the lines that processes add to their logs from now on."""

    def __init__(self, logs: Mapping[str, Path], out: TextIO = sys.stdout) -> None:
        width = max(map(len, logs))
        prefix = "\033[{}m{} |\033[0m " if out.isatty() and "NO_COLOR" not in os.environ else "{1} | "
        self._out = out
        self._tails = [
            (prefix.format(colour, name.ljust(width)), Tail(log))
            for (name, log), colour in zip(logs.items(), cycle(COLOURS), strict=False)
        ]

    def skip(self) -> None:
        """Drop the lines since the last call."""
        for _, tail in self._tails:
            tail.lines()

    def show(self) -> None:
        """Print the complete lines since the last call."""
        for prefix, tail in self._tails:
            for line in tail.lines():
                print(prefix, line, sep="", file=self._out)
        self._out.flush()

    def close(self) -> None:
        """Close the files."""
        for _, tail in self._tails:
            tail.close()


class Tail:
    """The end of a file that grows, and that is renamed and begun again when it is full."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""

    def lines(self) -> list[str]:
        """Return the complete lines since the last call."""
        data = self._rest + self._file.read()
        if self._was_renamed():
            data += self._file.read()  # what was added since the first read
            self._file.close()
            self._file = self._path.open("rb")
            data += self._file.read()
        *complete, self._rest = data.split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in complete]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _was_renamed(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:  # the new file is about to be made
            return False


def last_lines(path: Path, count: int = 15) -> list[str]:
    """Return the last lines of a log, which may not exist."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - CHUNK))
        return log.read().decode(errors="replace").splitlines()[-count:]
