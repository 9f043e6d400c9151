"""What a fault is, where it is known, and how several become one."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from tests.servers import Valkey
from tests.stack import Stack

Victim = Literal["web", "worker", "beat", "broker", "database", "mail server"]

Strike = Callable[[Stack, random.Random], str | None]
"""Lets it happen, and returns when it is over; with a remark for the table, if there is one to make."""

PROCESSES = ("web", "worker", "beat")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong while people sign up."""

    strike: Strike
    hits: frozenset[Victim]
    broker: type[Valkey] = Valkey
    processes: tuple[str, ...] = PROCESSES
    breaks_off: bool = True
    """Whether it may end a conversation with the mail server in its middle."""

    @property
    def name(self) -> str:
        return self.strike.__name__.replace("_", " ")

    @property
    def spares_requests(self) -> bool:
        """Whether every request must be answered all the same: what answers it is there."""
        return not self.hits & {"web", "database"}

    @property
    def is_common(self) -> bool:
        """Whether it can happen to any installation."""
        return self.broker is Valkey and self.processes == PROCESSES


def fault(
    *hits: Victim, broker: type[Valkey] = Valkey, processes: tuple[str, ...] = PROCESSES, breaks_off: bool = True
) -> Callable[[Strike], Fault]:
    """Makes a fault of a function that lets it happen."""
    return lambda strike: Fault(strike, frozenset(hits), broker, processes, breaks_off)


def together(faults: Sequence[Fault]) -> Fault:
    """All of them: those that hit the same thing one after the other, the rest whenever the dice say."""
    hits = frozenset[Victim]().union(*(fault.hits for fault in faults))
    busy = {victim: threading.Lock() for victim in hits}

    def combined(stack: Stack, rng: random.Random) -> str:
        def strike(fault: Fault, delay: float, seed: float) -> None:
            time.sleep(delay)
            with ExitStack() as victims:
                for victim in sorted(fault.hits):
                    victims.enter_context(busy[victim])
                fault.strike(stack, random.Random(seed))

        with ThreadPoolExecutor(len(faults)) as fates:
            struck = [fates.submit(strike, fault, rng.uniform(0, 8), rng.random()) for fault in faults]
        for one in struck:
            one.result()
        return " + ".join(fault.name for fault in faults)

    return Fault(combined, hits)
