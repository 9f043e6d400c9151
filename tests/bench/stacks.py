"""The stacks that are compared. Each one has a load, and workers that are started for one measurement."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

import psutil

from tests.bench.child import PROJECT, Child
from tests.bench.surroundings import Surroundings

PEERS = str(PROJECT / ".local" / "bench" / "bin" / "python")
WORKER = ("worker", "--without-gossip", "--without-mingle", "--loglevel=INFO")


@dataclass
class Stack:
    """A way to send mail. Two worker processes unless it says otherwise."""

    surroundings: Surroundings = field(repr=False)

    name: ClassVar[str]
    python: ClassVar[str] = sys.executable
    settings: ClassVar[str]
    database: ClassVar[str]
    load_command: ClassVar[tuple[str, ...]]
    worker_command: ClassVar[tuple[str, ...]]
    has_load: ClassVar[bool] = True
    batch: ClassVar[int] = 1
    """Mails that it prepares together: a measurement begins and ends between two batches."""

    def prepare(self, people: int) -> None:
        """Make the database, start the load, and make the people."""
        self.surroundings.create_database(self.database)
        migrate = [self.python, "-m", "django", "migrate", "--verbosity=0"]
        subprocess.run(migrate, cwd=PROJECT, env=self._environment(), check=True)
        self.load = Child(self._log("load"), [self.python, "-m", *self.load_command], self._environment())
        self.surroundings.stop_at_the_end(self.load)
        self.load.ask("seed", people)

    def run(self, url: str, *command: str) -> str:
        """Run a module with the settings of this stack. Return the last line that it prints."""
        done = subprocess.run(
            [self.python, "-m", *command],
            cwd=PROJECT,
            env=self._environment(url),
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.splitlines()[-1]

    def share(self, other: "Stack") -> None:
        """Use the database and the load of another stack."""
        self.load = other.load

    def _environment(self, email_url: str = "smtp://127.0.0.1:1") -> dict[str, str]:
        variables = self.surroundings.environment(self.database, email_url)
        return variables | {"DJANGO_SETTINGS_MODULE": self.settings, "PATH": os.defpath, "PYTHONPATH": str(PROJECT)}

    def _log(self, role: str) -> Path:
        return self.surroundings.directory / f"{role}-{self.name}.log"

    def command(self, mails: int, url: str) -> list[str]:
        """Return the command that sends."""
        return [self.python, "-m", *self.worker_command]

    @contextmanager
    def workers(self, mails: int, url: str) -> Iterator[psutil.Process]:
        """Run the workers. Afterwards kill them, as most of the backlog may be left, and forget it."""
        with self._log("worker").open("ab") as log:
            process = subprocess.Popen(
                self.command(mails, url),
                cwd=PROJECT,
                env=self._environment(url) | {"TMPDIR": mkdtemp(dir=self.surroundings.directory)},  # post_office's lock
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield psutil.Process(process.pid)
        except Exception as error:
            error.add_note(f"The workers of {self.name} say:\n{self._log('worker').read_text()[-3000:]}")
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def forget(self) -> None:
        """Remove all mail from database and broker."""
        self.load.ask("forget")
        self.surroundings.valkey.client().flushall()


class Ours(Stack):
    name = "ours"
    settings = "config.settings"
    database = "ours"
    load_command = ("tests.bench.ours",)
    worker_command: ClassVar[tuple[str, ...]] = ("celery", "-A", "config", *WORKER, "-c2", "-Qcritical,default,bulk")


class OursInThreads(Ours):
    """The same installation, with other workers."""

    name = "ours, 16 threads"
    worker_command = ("celery", "-A", "config", *WORKER, "-Pthreads", "-c16", "-Qcritical,default,bulk")


class Peer(Stack):
    python = PEERS
    settings = "tests.bench.peers.settings"
    worker_command = ("celery", "-A", "tests.bench.peers", *WORKER, "-c2")


class PostOffice(Peer):
    name = "post_office"
    database = "post_office"
    load_command = ("tests.bench.peers.load", "post_office")
    batch = 100


class NaiveTask(Peer):
    name = "naive task"
    database = "naive_task"
    load_command = ("tests.bench.peers.load", "naive")


class Floor(Stack):
    """Bare smtplib. It has no database, and its backlog is an argument."""

    name = "floor"
    settings = database = ""
    has_load = False

    def prepare(self, people: int) -> None:
        """Need nothing."""

    def command(self, mails: int, url: str) -> list[str]:
        return [self.python, "-m", "tests.bench.floor", url, str(mails)]

    def forget(self) -> None:
        """Have nothing."""
