"""What Ctrl-C, SIGTERM and a closed terminal do to `make start`."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_once() -> None:
    """The first signal raises KeyboardInterrupt in the main thread; every further one only asks for patience."""
    for number in SIGNALS:
        signal.signal(number, _raise)


def ask_for_patience() -> None:
    """From now on no signal breaks the order of the stop."""
    for number in SIGNALS:
        signal.signal(number, _have_patience)


def _raise(_: int, __: FrameType | None) -> None:
    ask_for_patience()
    raise KeyboardInterrupt


def _have_patience(_: int, __: FrameType | None) -> None:
    print("Stopping already: the worker may take some seconds to finish what it holds.", flush=True)
