"""The line that shows how far a long command is."""

from io import StringIO

import pytest
from django.core.management.base import OutputWrapper

from mailer.management import progress
from mailer.management.progress import Progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shows"), [(Terminal(), True), (StringIO(), False)])
def test_a_terminal_gets_one_line_that_is_updated_and_a_pipe_none(
    stream: StringIO, shows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    line = Progress(OutputWrapper(stream), "messages", 2_000)

    line(500)
    line(1_500)
    line.end()

    assert line.done == 2_000
    assert ("2,000 of 2,000 messages, " in stream.getvalue()) is shows
    assert stream.getvalue().count("\n") == int(shows)
