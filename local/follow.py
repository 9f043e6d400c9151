"""The logs of all processes as one stream, each line with the name of its process before it."""

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
    """Prints what is added to the logs from now on."""

    def __init__(self, logs: Mapping[str, Path], out: TextIO = sys.stdout) -> None:
        width = max(map(len, logs))
        colourful = out.isatty() and "NO_COLOR" not in os.environ
        self._out = out
        self._tails = [
            (_prefix(name.ljust(width), colour if colourful else None), Tail(log))
            for (name, log), colour in zip(logs.items(), cycle(COLOURS), strict=False)
        ]

    def skip(self) -> None:
        """Leaves out what came since the last call."""
        for _, tail in self._tails:
            tail.lines()

    def show(self) -> None:
        """Prints the whole lines that came since the last call."""
        for prefix, tail in self._tails:
            for line in tail.lines():
                print(prefix, line, sep="", file=self._out)
        self._out.flush()

    def close(self) -> None:
        """Lets go of the files."""
        for _, tail in self._tails:
            tail.close()


class Tail:
    """The end of a file that grows, and that is now and then renamed and begun anew."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""

    def lines(self) -> list[str]:
        """The whole lines that came since the last call."""
        *whole, self._rest = (self._rest + self._new_bytes()).split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in whole]

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _new_bytes(self) -> bytes:
        data = self._file.read()
        if self._was_renamed():
            data += self._file.read()  # what came between the two looks
            self._file.close()
            self._file = self._path.open("rb")
            data += self._file.read()
        return data

    def _was_renamed(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:  # the new one is about to be made
            return False


def last_lines(path: Path, count: int = 15) -> list[str]:
    """The last lines of a log, none when it was never written."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - CHUNK))
        return log.read().decode(errors="replace").splitlines()[-count:]


def _prefix(name: str, colour: int | None) -> str:
    return f"\033[{colour}m{name} |\033[0m " if colour else f"{name} | "
