"""One inbox for all tests that only add mail, and new ones for tests that empty, stop or kill it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.local.inbox.running_inbox import RunningInbox

type Start = Callable[[], RunningInbox]


@pytest.fixture(scope="session")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningInbox]:
    running = RunningInbox(tmp_path_factory.mktemp("inbox") / "mail")
    yield running
    running.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an inbox, each time on the same directory."""
    started: list[RunningInbox] = []

    def start() -> RunningInbox:
        started.append(RunningInbox(tmp_path / "mail"))
        return started[-1]

    yield start
    for running in started:
        running.kill()
