"""The processes that installations of tests are made of."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environment import ENVIRONMENT
from tests.shell import Shell


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    shell = Shell(os.environ | ENVIRONMENT)
    yield shell
    shell.close()


def test_each_script_runs_in_a_process_of_its_own_with_django_set_up(shell: Shell) -> None:
    script = "import os\nfrom django.apps import apps\nprint(os.getpid(), os.environ['WHO'], apps.ready)"

    first, second = (shell.run(script, {"WHO": who}).stdout.split() for who in ("ann", "bob"))

    assert (first[1:], second[1:]) == (["ann", "True"], ["bob", "True"])
    assert first[0] != second[0]


def test_a_script_that_fails_says_why(shell: Shell) -> None:
    done = shell.run("print('so far')\nraise ValueError('no')", {})

    assert (done.returncode, done.stdout) == (1, "so far\n")
    assert done.stderr.endswith("ValueError: no\n")


def test_a_script_that_was_started_can_be_asked_and_ended(shell: Shell, tmp_path: Path) -> None:
    sleeper = shell.start("import time\ntime.sleep(60)", {}, tmp_path / "output", tmp_path / "errors")

    assert sleeper.poll() is None
    assert shell.run("print('beside it')", {}).stdout == "beside it\n"
    sleeper.terminate()
    assert sleeper.wait(10) == sleeper.poll() == -signal.SIGTERM
