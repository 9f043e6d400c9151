"""What asks for mail: a backlog at once, a stream at a steady pace, and single calls as in a request.

The stacks differ in what they call. Mails are asked for in the order of the users, each one once until `forget`.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.child import answer_lines


@dataclass(slots=True)
class Load:
    """One stack: how its mails are made and asked for."""

    seed: Callable[[int], object]
    """Make so many people, from user-1@example.com on, and what else the mails are about."""
    make: Callable[[int, int], Sequence[tuple[str, Any]]]
    """Return addresses and mails of people, from one number to before another."""
    ask_for_one: Callable[[Any, bool], object]
    """Ask for one mail in a transaction; urgent or in bulk."""
    ask_for_many: Callable[[Sequence[Any], bool], object]
    """Ask for many mails in a transaction; urgent or in bulk."""
    forget: Callable[[], object]
    """Remove all mail from the database."""
    people: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def answer(self) -> None:
        """Answer the lines of the bench until there are no more."""
        answer_lines(
            {
                "seed": lambda number: self.seed(int(number)),
                "fill": self._fill,
                "stream": self._stream,
                "calls": self._calls,
                "forget": self._forget,
            }
        )

    def _forget(self) -> None:
        self.forget()
        self.people = itertools.count(1)

    def _next(self, number: int) -> Sequence[tuple[str, Any]]:
        first = next(self.people)
        self.people = itertools.count(first + number)
        return self.make(first, first + number)

    def _fill(self, number: str, *bulk: str) -> float:
        """Return the rows per second. The mails are in memory before, so that only asking for them is measured."""
        mails = [mail for _, mail in self._next(int(number))]
        began = time.perf_counter()
        self.ask_for_many(mails, not bulk)
        return len(mails) / (time.perf_counter() - began)

    def _stream(self, number: str, rate: str) -> dict[str, float]:
        """Ask for urgent mails at a pace. Return the time (Unix) at which each was asked for, by address."""
        asked: dict[str, float] = {}
        due = time.time()
        for address, mail in self._next(int(number)):
            time.sleep(max(due - time.time(), 0))
            asked[address] = time.time()
            self.ask_for_one(mail, True)
            due += 1 / float(rate)
        return asked

    def _calls(self, number: str) -> dict[str, float]:
        """Ask for single mails. Return the milliseconds of a call: the median, and of CPU."""
        for _, mail in self._next(20):
            self.ask_for_one(mail, True)
        times, cpu = [], time.process_time()
        for _, mail in self._next(int(number)):
            began = time.perf_counter()
            self.ask_for_one(mail, True)
            times.append((time.perf_counter() - began) * 1000)
        return {"ms": statistics.median(times), "cpu": (time.process_time() - cpu) * 1000 / len(times)}
