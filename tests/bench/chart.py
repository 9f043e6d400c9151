"""Draw the CPU that a mail costs."""

from collections.abc import Sequence
from pathlib import Path

import pygal
from pygal.style import CleanStyle

from tests.bench.report import BACKLOG, ONE_BY_ONE, Measured, median

STYLE = CleanStyle(
    background="white",
    plot_background="white",
    colors=("#0b6b5c", "#c98a2b", "#9aa5a0", "#3d4a45"),
    font_family="sans-serif",
    value_font_size=12,
    label_font_size=12,
    major_label_font_size=12,
    guide_stroke_dasharray="1,6",
    major_guide_stroke_dasharray="1,6",
)


def draw(results: Sequence[Measured], file: Path) -> None:
    """Write an SVG: bars for each stack, by what it does with a mail server that is near."""
    near = [each for each in results if each.what in (BACKLOG, ONE_BY_ONE) and each.line.endswith(", 0 ms")]
    groups = list(dict.fromkeys((each.what, each.line) for each in near))[::-1]  # the first one is drawn at the bottom
    stacks = list(dict.fromkeys(each.stack for each in near))
    chart = pygal.HorizontalBar(
        title="CPU a mail, milliseconds",
        style=STYLE,
        js=[],  # no script in a picture
        width=800,
        height=120 + 25 * len(stacks) * len(groups),
        legend_at_bottom=True,
        legend_at_bottom_columns=len(stacks),
        print_values=True,
        print_values_position="top",
        formatter=lambda value: f"{value:.2f}",
    )
    chart.x_labels = [f"{what}, {line.removesuffix(', 0 ms')}" for what, line in groups]
    for stack in stacks:
        chart.add(stack, [median(near, what, line, stack, "cpu") for what, line in groups])
    file.write_bytes(chart.render())
