"""Define faults, and combine several into one."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from tests.faults.load import Load, SignUps
from tests.servers import Valkey
from tests.stack import POOL, Stack

Victim = Literal["web", "worker", "beat", "broker", "database", "mail server"]

Strike = Callable[[Stack, random.Random], str | None]
"""Cause the fault, and return when it has ended. The result is an optional remark for the table."""

Setting = Callable[[Stack], AbstractContextManager[Any]]
"""What the processes of a fault need: a context that begins before them and ends after them."""

RECOVERY = 15.0
"""Seconds from the end of a fault to the first mail, with the settings that ship."""

PROCESSES = ("web", "worker", "beat")
TWO_WORKERS = ("web", "worker", "worker-2", "beat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A failure while mail is committed."""

    strike: Strike
    hits: frozenset[Victim]
    broker: type[Valkey] = Valkey
    processes: tuple[str, ...] = PROCESSES
    setting: Setting = lambda _: nullcontext()
    load: Callable[[int], Load] = SignUps
    patience: float = 180
    """Seconds after the fault within which all mail must be settled."""
    cuts_conversations: bool = True
    """Whether it may interrupt a conversation with the mail server, so that its outcome is unknown."""
    needs_children: bool = False
    """Whether it is about the child processes of a worker, which a pool of threads has not."""

    @property
    def name(self) -> str:
        return self.strike.__name__.replace("_", " ")

    @property
    def requests_must_succeed(self) -> bool:
        """Whether every request must still be answered, because web and database are up."""
        return not self.hits & {"web", "database"}

    @property
    def fits(self) -> bool:
        """Whether it can happen with the pool of this run."""
        return POOL == "prefork" or not self.needs_children

    @property
    def is_common(self) -> bool:
        """Whether it can happen in every installation."""
        ordinary = Fault(strike=self.strike, hits=self.hits, cuts_conversations=self.cuts_conversations)
        return self == ordinary


def fault(*hits: Victim, **options: Any) -> Callable[[Strike], Fault]:
    """Make a fault from a function that causes it. The options are the fields of Fault."""
    return lambda strike: Fault(strike=strike, hits=frozenset(hits), **options)


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

    return Fault(strike=combined, hits=hits)
