"""The tables of `make bench`."""

from tests.bench.report import BACKLOG, CALLS, Measured, tables


def test_a_ratio_is_computed_in_each_round() -> None:
    cpu = [("ours", 1.0), ("peer", 2.0), ("ours", 3.0), ("peer", 3.0), ("ours", 2.0), ("peer", 10.0)]
    results = [Measured(BACKLOG, "plain, 0 ms", stack, {"cpu": value}) for stack, value in cpu]

    *_, ours, peer = tables(results).splitlines()

    assert ours.startswith("| plain, 0 ms | ours | 2.00 (1.00-3.00) |  |")
    assert peer.startswith("| plain, 0 ms | peer | 3.00 (2.00-10.00) | 0.50 (0.20-1.00) |")


def test_only_what_was_measured_has_a_table() -> None:
    text = tables([Measured(CALLS, "", "ours", {"ms": 1.5, "cpu": 1.25})])

    assert text.count("**") == 2
    assert "|  | ours | 1.50 |  | 1.25 |  |" in text
