"""Measure ours beside what people use today, in one run on this machine: `make bench`, `make bench ARGS=--quick`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.bench import chart
from tests.bench.child import PROJECT
from tests.bench.measure import Figures, calls, drain, one_by_one, stages
from tests.bench.report import BACKLOG, BESIDE, CALLS, ONE_BY_ONE, STAGES, Measured, tables
from tests.bench.stacks import Floor, NaiveTask, Ours, OursInThreads, PostOffice, Stack
from tests.bench.surroundings import Line, Surroundings

RESULTS = PROJECT / ".local" / "bench"
PAGE = PROJECT / "docs" / "speed.md"
PICTURE = PROJECT / "docs" / "pictures" / "speed.svg"
BEGIN, END = "<!-- begin: make bench ARGS=--docs -->\n", "<!-- end -->\n"

TLS = Line(tls=True)
LINES = [Line(), TLS, Line(delay=20), Line(tls=True, delay=20)]
STACKS: list[type[Stack]] = [Ours, OursInThreads, PostOffice, NaiveTask, Floor]

FEWEST = 500

Step = tuple[str, Line | None, Stack, Callable[[], Figures]]


def main() -> None:
    """Run the rounds, print the tables, and write them with the figures and the picture."""
    options = parse(sys.argv[1:])
    with Surroundings(durable=options.durable) as surroundings:
        stacks = [kind(surroundings) for kind in STACKS if kind.name.startswith(tuple(options.only) or "")]
        prepare(stacks, max(options.mails, options.beside) + 1000)
        results = [measure(step) for _ in range(options.rounds) for step in steps(stacks, options)]
        results += measure_stages(stacks)
    write(results, in_docs=options.docs)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS='…'", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round with TLS only, in less than a minute")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mails", type=int, default=2000, help="in the backlog: 2000, 20000, 200000")
    parser.add_argument("--seconds", type=float, default=4, help="the longest time that a backlog is watched")
    parser.add_argument("--rate", type=float, default=10, help="mails a second, one by one")
    parser.add_argument("--beside", type=int, default=5000, help="bulk mails while urgent ones come")
    parser.add_argument("--only", action="append", default=[], choices=["ours", "post_office", "naive task", "floor"])
    parser.add_argument("--durable", action="store_true", help="PostgreSQL waits for the disk at each commit")
    parser.add_argument("--docs", action="store_true", help="write the tables and the picture into docs/, too")
    options = parser.parse_args(arguments)
    if options.mails < FEWEST:
        parser.error(f"--mails must be {FEWEST} at least: the first ones are not measured")
    if options.quick:
        options.rounds, options.mails, options.seconds, options.beside = 1, 1000, 1.5, 0
    return options


def prepare(stacks: list[Stack], people: int) -> None:
    """Prepare all stacks at once; most of it is waiting."""
    apart = [stack for stack in stacks if not isinstance(stack, OursInThreads)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda stack: stack.prepare(people), apart))
    for stack in stacks:
        if isinstance(stack, OursInThreads):
            stack.share(next(other for other in apart if isinstance(other, Ours)))


def steps(stacks: list[Stack], options: argparse.Namespace) -> Iterator[Step]:
    """Yield the measurements of one round. What is compared follows each other."""
    for line in [TLS] if options.quick else LINES:
        for stack in stacks:
            if line.delay or not isinstance(stack, OursInThreads):  # threads are for distant servers
                yield BACKLOG, line, stack, partial(drain, stack, line, options.mails, options.seconds)
    asking = [
        stack for stack in stacks if isinstance(stack, Ours | PostOffice) and not isinstance(stack, OursInThreads)
    ]
    mails = round(options.rate * max(options.seconds, 3))
    for stack in asking:
        yield ONE_BY_ONE, TLS, stack, partial(one_by_one, stack, TLS, mails, options.rate)
    for stack in asking if options.beside else []:
        yield BESIDE, TLS, stack, partial(one_by_one, stack, TLS, mails, options.rate, beside=options.beside)
    for stack in asking:
        yield CALLS, None, stack, partial(calls, stack, 200)


def measure(step: Step) -> Measured:
    """Take one step, and say so."""
    what, line, stack, take = step
    began = time.monotonic()
    figures = take()
    said = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    print(f"{time.monotonic() - began:5.1f} s  {what}, {line or ''}, {stack.name}: {said}", file=sys.stderr, flush=True)
    return Measured(what, str(line or ""), stack.name, figures)


def measure_stages(stacks: list[Stack]) -> list[Measured]:
    """Find where the CPU goes, of ours only. A module stands where a stack does."""
    ours = [stack for stack in stacks if stack.name == Ours.name]
    found = stages(ours[0], TLS, 300, RESULTS / "stacks.folded") if ours else {}
    return [Measured(STAGES, str(TLS), module, {"cpu": cpu}) for module, cpu in found.items()]


def write(results: list[Measured], *, in_docs: bool) -> None:
    """Print the tables, and write them with the figures and the picture."""
    text = tables(results)
    print(text)
    RESULTS.joinpath("result.json").write_text(json.dumps([asdict(each) for each in results], indent=1))
    RESULTS.joinpath("tables.md").write_text(text)
    chart.draw(results, RESULTS / "speed.svg")
    if in_docs:
        chart.draw(results, PICTURE)
        _replace(PAGE, text)


def _replace(page: Path, text: str) -> None:
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
