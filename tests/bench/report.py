"""From measurements to tables: the median of the rounds with the smallest and the largest, and ours compared in each round."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.bench.measure import Figures

OURS = "ours"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement of one stack in one round."""

    what: str
    """The heading of its table."""
    line: str
    stack: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `digits` are those behind the point."""

    title: str
    figure: str
    digits: int = 0
    is_ratio: bool = False
    """Ours divided by the stack of the row."""


BACKLOG = "A backlog"
ONE_BY_ONE = "One by one"
BESIDE = "Urgent mail beside a bulk backlog"
CALLS = "Asking for a mail"
STAGES = "Where the CPU goes in one process"

CPU = (Column("CPU ms a mail", "cpu", 2), Column("ours / it", "cpu", 2, is_ratio=True))
DELAYS = (
    Column("accepted after ms, p50", "p50"),
    Column("p95", "p95"),
    Column("ours / it, p95", "p95", 2, is_ratio=True),
)
COLUMNS = {
    BACKLOG: (
        *CPU,
        Column("mails/s", "per_second"),
        Column("ours / it", "per_second", 2, is_ratio=True),
        Column("MB at start", "megabytes_at_start"),
        Column("MB at end", "megabytes_at_end"),
        Column("rows/s", "rows_per_second"),
        Column("bytes a mail", "bytes"),
    ),
    ONE_BY_ONE: (*CPU, *DELAYS),
    BESIDE: DELAYS,
    CALLS: (
        Column("ms a call", "ms", 2),
        Column("ours / it", "ms", 2, is_ratio=True),
        Column("CPU ms a call", "cpu", 2),
        Column("ours / it", "cpu", 2, is_ratio=True),
    ),
    STAGES: (Column("CPU ms a mail", "cpu", 2),),
}


def tables(results: Sequence[Measured]) -> str:
    """Return the tables in Markdown."""
    measured = [what for what in COLUMNS if any(each.what == what for each in results)]
    return "\n".join(_table(what, [each for each in results if each.what == what]) for what in measured)


def median(results: Iterable[Measured], what: str, line: str, stack: str, figure: str) -> float | None:
    """Return the median over the rounds, or None if it was not measured."""
    values = _values(results, what, line, stack, figure)
    return statistics.median(values) if values else None


def _table(what: str, results: Sequence[Measured]) -> str:
    columns = COLUMNS[what]
    name = "module" if what == STAGES else "stack"
    rows = [
        f"| line | {name} | {' | '.join(column.title for column in columns)} |",
        f"| --- | --- |{' ---: |' * len(columns)}",
    ]
    for line, stack in dict.fromkeys((each.line, each.stack) for each in results):
        cells = (_cell(column, results, what, line, stack) for column in columns)
        rows.append(f"| {line} | {stack} | {' | '.join(cells)} |")
    return f"**{what}**\n\n" + "\n".join(rows) + "\n"


def _cell(column: Column, results: Sequence[Measured], what: str, line: str, stack: str) -> str:
    values = _values(results, what, line, stack, column.figure)
    if column.is_ratio:
        ours = _values(results, what, line, OURS, column.figure)
        values = [mine / its for mine, its in zip(ours, values, strict=False)] if stack != OURS else []
    if not values:
        return ""
    middle, least, most = (
        f"{value:,.{column.digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return middle if least == most else f"{middle} ({least}-{most})"


def _values(results: Iterable[Measured], what: str, line: str, stack: str, figure: str) -> list[float]:
    """Return a figure of each round."""
    key = (what, line, stack)
    return [
        each.figures[figure] for each in results if (each.what, each.line, each.stack) == key and figure in each.figures
    ]
