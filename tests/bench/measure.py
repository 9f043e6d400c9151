"""Measure a stack: what a mail costs while a backlog drains, and while mail comes one by one; what asking for it costs."""

import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from tests.bench.stacks import Stack
from tests.bench.surroundings import Line, Sink

WARM = 20
"""Mails before a measurement begins, so that every process has its connections and templates."""
PATIENCE = 60.0
"""Seconds without a mail until a run has failed."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The state of a run at some time."""

    at: float
    cpu: float
    """Seconds of user and system of all worker processes so far."""
    megabytes: float
    """The largest worker process."""
    mails: int

    @classmethod
    def now(cls, workers: psutil.Process, sink: Sink) -> Self:
        """Look at the workers, and at what the mail server has."""
        cpu = megabytes = 0.0
        for process in (workers, *workers.children(recursive=True)):
            with process.oneshot():
                cpu += sum(process.cpu_times()[:2])
                megabytes = max(megabytes, process.memory_info().rss / 1e6)
        return cls(time.monotonic(), cpu, megabytes, sink.ask("count"))


Figures = dict[str, float]


def drain(stack: Stack, line: Line, mails: int, seconds: float) -> Figures:
    """Let the workers drain a backlog, to its end or for so many seconds."""
    sink = _empty(stack, line)
    figures = {"rows_per_second": stack.load.ask("fill", mails)} if stack.has_load else {}
    with stack.workers(mails, sink.url) as workers:
        _await_mails(sink, max(WARM, stack.batch))
        first = Moment.now(workers, sink)
        _await_mails(sink, mails, seconds=seconds, batch=stack.batch)
        last = Moment.now(workers, sink)
    return figures | _between(first, last) | {"bytes": statistics.mean(sink.ask("sizes"))}


def one_by_one(stack: Stack, line: Line, mails: int, rate: float, *, beside: int = 0) -> Figures:
    """Ask for urgent mails at a pace, with empty queues or beside a backlog of bulk mail."""
    sink = _empty(stack, line)
    if beside:
        stack.load.ask("fill", beside, "bulk")
    with stack.workers(0, sink.url) as workers:
        if beside:
            _await_mails(sink, WARM)
        _await_stream(stack, sink, WARM, rate)
        first = Moment.now(workers, sink)
        delays = _await_stream(stack, sink, mails, rate)
        last = Moment.now(workers, sink)
    twentieths = statistics.quantiles(delays, n=20)
    return _between(first, last) | {"p50": twentieths[9], "p95": twentieths[18]}


def calls(stack: Stack, number: int) -> Figures:
    """Ask for single mails, with no worker."""
    stack.forget()
    figures: Figures = stack.load.ask("calls", number)
    stack.forget()
    return figures


def stages(stack: Stack, line: Line, mails: int, folded: Path) -> Figures:
    """Deliver a backlog in one process. Return the CPU a mail of each module, and write the stacks to a file."""
    sink = _empty(stack, line)
    stack.load.ask("fill", mails)
    figures: Figures = json.loads(stack.run(sink.url, "tests.bench.stages", str(folded)))
    return figures


def _empty(stack: Stack, line: Line) -> Sink:
    stack.forget()
    sink = stack.surroundings.sink(line)
    sink.ask("forget")
    return sink


def _await_mails(sink: Sink, target: int, *, seconds: float = math.inf, batch: int = 1) -> None:
    """Wait until the mail server has so many, or for so many seconds and the end of a batch."""
    ends = time.monotonic() + seconds
    count, came = 0, time.monotonic()
    while count < target:
        time.sleep(0.03)
        before, count = count, sink.ask("count")
        if count > before:
            came = time.monotonic()
        if time.monotonic() > ends:
            target, ends = min(target, math.ceil(count / batch) * batch), math.inf
        if time.monotonic() > came + PATIENCE:
            raise RuntimeError(f"no mail came for {PATIENCE:.0f} s, {count} of {target} are there")


def _await_stream(stack: Stack, sink: Sink, mails: int, rate: float) -> list[float]:
    """Ask for urgent mails at a pace. Return the milliseconds until each was accepted."""
    asked: dict[str, float] = stack.load.ask("stream", mails, rate)
    time.sleep(0.5)
    ends = time.monotonic() + PATIENCE
    while asked.keys() - (accepted := sink.ask("times")).keys():
        if time.monotonic() > ends:
            raise RuntimeError(f"of {mails} urgent mails {len(asked.keys() - accepted.keys())} did not come")
        time.sleep(0.5)
        stack.load.ask("stream", 1, 1)  # post_office leaves its last mail when a task finds the lock taken
    return [(accepted[address] - at) * 1000 for address, at in asked.items()]


def _between(first: Moment, last: Moment) -> Figures:
    mails = last.mails - first.mails
    return {
        "mails": mails,
        "cpu": (last.cpu - first.cpu) * 1000 / mails,
        "per_second": mails / (last.at - first.at),
        "megabytes_at_start": first.megabytes,
        "megabytes_at_end": last.megabytes,
    }
