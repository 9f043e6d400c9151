"""A line on a terminal that says how far a long command is."""

import time

from django.core.management.base import OutputWrapper

EVERY = 0.2
"""Seconds between two updates of the line."""


class Progress:
    """Count what is done, and show it in one line that is updated. A file or a pipe gets none of it."""

    def __init__(self, stream: OutputWrapper, what: str, total: int | None = None) -> None:
        self.done = 0
        self._stream, self._what, self._total = stream, what, total
        self._began = self._shown = time.monotonic()

    def __call__(self, number: int = 1) -> None:
        """Add a number of things that are done."""
        self.done += number
        if time.monotonic() - self._shown > EVERY and self._stream.isatty():
            self._shown = time.monotonic()
            self._show("")

    def end(self) -> None:
        """Show the last number, and go to the next line, if the line was ever shown."""
        if self._shown > self._began:
            self._show("\n")

    def _show(self, ending: str) -> None:
        of = f" of {self._total:,}" if self._total is not None else ""
        speed = self.done / (time.monotonic() - self._began)
        self._stream.write(f"\r{self.done:,}{of} {self._what}, {speed:,.0f} a second ", style_func=str, ending=ending)
        self._stream.flush()
