"""Define faults, and combine several into one."""

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
"""Cause the fault, and return when it has ended. The result is an optional remark for the table."""

PROCESSES = ("web", "worker", "beat")


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure during sign-ups."""

    strike: Strike
    hits: frozenset[Victim]
    broker: type[Valkey] = Valkey
    processes: tuple[str, ...] = PROCESSES
    cuts_conversations: bool = True
    """Whether it may interrupt a conversation with the mail server, so that its outcome is unknown."""

    @property
    def name(self) -> str:
        return self.strike.__name__.replace("_", " ")

    @property
    def requests_must_succeed(self) -> bool:
        """Whether every request must still be answered, because web and database are up."""
        return not self.hits & {"web", "database"}

    @property
    def is_common(self) -> bool:
        """Whether it can happen in every installation."""
        return self.broker is Valkey and self.processes == PROCESSES


def fault(
    *hits: Victim,
    broker: type[Valkey] = Valkey,
    processes: tuple[str, ...] = PROCESSES,
    cuts_conversations: bool = True,
) -> Callable[[Strike], Fault]:
    """Make a fault from a function that causes it."""
    return lambda strike: Fault(strike, frozenset(hits), broker, processes, cuts_conversations)


def together(faults: Sequence[Fault]) -> Fault:
    """Combine faults: those with the same victim happen one after the other, the rest at random times."""
    hits = frozenset[Victim]().union(*(fault.hits for fault in faults))
    busy = {victim: threading.Lock() for victim in hits}

    def combined(stack: Stack, rng: random.Random) -> str:
        def strike(fault: Fault, delay: float, seed: float) -> None:
            time.sleep(delay)
            with ExitStack() as victims:
                for victim in sorted(fault.hits):
                    victims.enter_context(busy[victim])
                fault.strike(stack, random.Random(seed))

        with ThreadPoolExecutor(len(faults)) as pool:
            struck = [pool.submit(strike, fault, rng.uniform(0, 8), rng.random()) for fault in faults]
        for one in struck:
            one.result()
        return " + ".join(fault.name for fault in faults)

    return Fault(combined, hits)
