"""Child processes of the bench: each answers a line of words with a line of JSON."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


class Child:
    """`child = Child(log, [python, "-m", "tests.bench.sink"], {}); child.ask("count")`."""

    def __init__(self, log: Path, command: list[str], environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )

    def ask(self, *words: object) -> Any:
        """Send a line of words. Return the answer. Raises RuntimeError if the process ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{words[0]}: {self.log} says\n{self.log.read_text()[-3000:]}")
        return json.loads(answer)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


def answer_lines(commands: Mapping[str, Callable[..., object]]) -> None:
    """Answer each line of stdin by the command that its first word names. Nothing else may write to stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, *words = line.split()
        print(json.dumps(commands[name](*words)), file=answers, flush=True)
