"""All of Postcommit as in production: web, worker, beat, PostgreSQL, broker and mail server, each a process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import requests
from psycopg.rows import dict_row

from tests import history, migrated
from tests.environment import ENVIRONMENT
from tests.servers import Postgres, Valkey, free_port, wait_until
from tests.shell import Fork, Shell
from tests.smtp_sink import Script, Sink

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

FORGOTTEN = (
    "accounts_user, accounts_movingwindow, mailer_message, mailer_suppression, mailer_circuit, mailer_transportstate, "
    "test_history"
)

PASSWORD = "correct horse 9 battery"
"""The password of all users."""

QUICK = {
    "VERIFICATION_DELAY": "1",
    "POSTCOMMIT_SWEEP_EVERY": "1",
    "POSTCOMMIT_BACKOFF_BASE": "0.5",
    "POSTCOMMIT_SMTP_TIMEOUT": "2",
    "ACCOUNTS_MAIL_PER_NETWORK": "10000/second",
}
"""Seconds instead of minutes, to make tests short."""

AS_SHIPPED = {name: QUICK[name] for name in ("VERIFICATION_DELAY", "ACCOUNTS_MAIL_PER_NETWORK")}
"""The defaults of the mailer. What people wait for before their mail is due, and how many may sign up, is no part of it."""

MAIN = {"celery": "celery.__main__ import main", "gunicorn": "gunicorn.app.wsgiapp import run as main"}
PROGRAM = "import sys\nsys.argv = {argv}\nfrom {module}\nsys.exit(main())"
"""What the scripts in bin/ do."""
MANAGE = "from django.core import management\nmanagement.execute_from_command_line({})"

POOL = os.environ.get("POOL", "prefork")
"""The pool of the workers: prefork or threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """How a process differs from others of its kind. All but `environment` are for workers."""

    pool: str = POOL
    concurrency: int = 2
    queues: str = "critical,default,bulk"
    imports: str = ""
    """A module with further kinds of e-mail."""
    environment: Mapping[str, str] = field(default_factory=dict)


def sign_up(site: str, email: str) -> requests.Response:
    """Sign up as a browser does, with the form's token."""
    with requests.Session() as browser:
        page = browser.get(f"{site}/accounts/signup/", timeout=10)
        page.raise_for_status()
        data = {"email": email, "password1": PASSWORD, "password2": PASSWORD}
        token = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        return browser.post(page.url, data | token, timeout=10)


class Stack:
    """`with Stack(tmp_path, sink) as stack: stack.start("web", "worker", "worker-2", "beat")`."""

    def __init__(
        self,
        directory: Path,
        sink: Sink,
        broker: Callable[[Path], Valkey] = Valkey,
        settings: Mapping[str, str] = QUICK,
        /,
        **environment: str,
    ) -> None:
        self.directory, self.sink = directory, sink
        self.options: dict[str, Process] = {}
        """By name; set before `start`."""
        self.postgres, self.valkey = Postgres(directory / "pg"), broker(directory / "vk")
        self.web_port = free_port()
        self.flower_port = free_port()
        self.url = f"http://localhost:{self.web_port}"
        self._processes: dict[str, Fork] = {}
        self._said_before: dict[str, int] = {}
        self._shells: dict[frozenset[tuple[str, str]], Shell] = {}
        self._surroundings = ExitStack()
        self._entered: list[object] = []
        self._environment = {
            **os.environ,
            **ENVIRONMENT,
            **settings,
            "DATABASE_URL": self.postgres.url,
            "EMAIL_URL": sink.url,
            "SITE_URL": self.url,
            "WEB_PORT": str(self.web_port),
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            **self.valkey.environment,
            **environment,
        }

    def __enter__(self) -> "Stack":
        try:
            self.valkey.start()
            migrated.copy_to(self.postgres.data)
            self.postgres.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)
        for shell in self._shells.values():
            shell.close()
        self._surroundings.close()
        self.valkey.stop()
        self.postgres.stop()

    def forget(self) -> None:
        """Remove what a test left, for the next one: mail, accounts, and all that the broker and the mail server have.

        What runs goes on, and has nothing to do.
        """
        unsettled = "SELECT id FROM mailer_message WHERE state IN ('queued', 'sending', 'retrying')"
        self.wait_for(lambda: not self.sql(unsettled), "every message to be settled")
        self.wait_for(self._empties_its_tables, "the tables to be emptied")
        self.valkey.client().flushall()
        self.sink.received.clear()
        self.sink.script = Script()

    def _empties_its_tables(self) -> bool:
        """TRUNCATE locks one table after the other, so that it and a statement of what runs can wait for each other."""
        try:
            self.sql(f"TRUNCATE {FORGOTTEN} CASCADE")
        except psycopg.errors.DeadlockDetected:
            return False
        return True

    def surround[Surrounding](self, surrounding: AbstractContextManager[Surrounding]) -> Surrounding:
        """Enter a context that ends after all processes, and keep what it gives, such as a cable."""
        entered = self._surroundings.enter_context(surrounding)
        self._entered.append(entered)
        return entered

    def surrounding[Surrounding](self, kind: type[Surrounding]) -> Surrounding:
        """Return what a surrounding context gave."""
        return next(entered for entered in self._entered if isinstance(entered, kind))

    def start(self, *names: str) -> None:
        """Start processes and wait until they are ready. `worker-2` is a second worker."""
        self.launch(*names)
        for name in names:
            self.wait_for(partial(self._is_up, name), f"{name} to start", seconds=60)

    def launch(self, *names: str) -> None:
        """Start processes. A worker does not get ready while its broker is away."""
        for name in names:
            log = self.log_file(name)
            log.touch()
            self._said_before[name] = log.stat().st_size
            program, *arguments = self._command(name)
            script = PROGRAM.format(argv=[program, *arguments], module=MAIN[program])
            self._processes[name] = self._shell(self._process(name).environment).start(script, {}, log, log)

    def stop(self, name: str, within: float = 20) -> float:
        """Stop a process in order. Return the seconds that it took; more than `within` are an error."""
        began = time.monotonic()
        self._processes[name].terminate()
        self._processes[name].wait(within)
        del self._processes[name]
        return time.monotonic() - began

    def kill(self, name: str) -> None:
        """Kill a process and its children, as a crash of the machine would."""
        process = self._processes.pop(name, None)
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            process.wait(10)

    def runs(self, name: str) -> bool:
        """Return whether a process was started and has not ended."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def has_ended(self, name: str) -> bool:
        """Return whether a process that was started has ended by itself."""
        process = self._processes.get(name)
        return process is not None and process.poll() is not None

    def senders(self, name: str) -> list[int]:
        """Return the ids of the processes of a worker that send: those of its pool, or the worker itself with threads."""
        return self.children(name) if self._process(name).pool == "prefork" else [self._processes[name].pid]

    def children(self, name: str) -> list[int]:
        """Return the ids of the child processes, such as the pool of a worker. A pool of threads has none."""
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        family = [tuple(map(int, line.split())) for line in table.splitlines()]
        return [pid for pid, parent in family if parent == self._processes[name].pid]

    def manage(self, *arguments: str) -> str:
        """Run a manage.py command. Return its output."""
        return self.run(
            f"from django.core import management\nmanagement.execute_from_command_line({['manage.py', *arguments]})"
        )

    def run(self, script: str, **environment: str) -> str:
        """Run Python code in a new process, with Django set up. The settings do not read these variables."""
        done = self._shell({}).run(script, environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _shell(self, environment: Mapping[str, str]) -> Shell:
        """Return the shell of this environment, whose settings may differ from those of others."""
        key = frozenset(environment.items())
        if key not in self._shells:
            self._shells[key] = Shell({**self._environment, **environment})
        return self._shells[key]

    def sql(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Query the database."""
        with psycopg.connect(self.postgres.url, row_factory=dict_row) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def messages(self) -> list[dict[str, Any]]:
        """Return all rows of the outbox, the oldest first."""
        return self.sql("SELECT * FROM mailer_message ORDER BY id")

    def history(self) -> list[history.Change]:
        """Return every change of messages and attempts so far."""
        with psycopg.connect(self.postgres.url) as connection:
            return history.read(connection.cursor())

    def log_file(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def log(self, name: str) -> str:
        """Return the log of a process."""
        return self.log_file(name).read_text() if self.log_file(name).exists() else ""

    def sign_up(self, email: str) -> requests.Response:
        """Sign up as a browser does."""
        return sign_up(self.url, email)

    def wait_for(self, condition: Callable[[], object], what: str, *, seconds: float = 30) -> None:
        """Wait until a condition holds. The error names `what` and shows the logs."""
        try:
            wait_until(condition, what, seconds=seconds)
        except TimeoutError as error:
            logs = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self._said_before)
            raise AssertionError(f"{error}\n{logs}") from None

    def _process(self, name: str) -> Process:
        return self.options.get(name, Process())

    def _command(self, name: str) -> list[str]:
        celery, process = ["celery", "-A", "config"], self._process(name)
        match name.partition("-")[0]:
            case "web":
                return ["gunicorn", "config.wsgi"]
            case "worker":
                named = [f"--hostname={name}@%h", f"--queues={process.queues}"]
                pool = [f"--pool={process.pool}", f"--concurrency={process.concurrency}"]
                imports = [f"--include={process.imports}"] if process.imports else []
                quiet = ["--without-gossip", "--without-mingle"]
                return [*celery, "worker", *named, *pool, *imports, *quiet]
            case "beat":
                return [*celery, "beat", f"--schedule={self.directory / name}-schedule"]
            case _:
                return [*celery, "flower", f"--port={self.flower_port}", "--address=127.0.0.1"]

    def _is_up(self, name: str) -> bool:
        flower = f"http://127.0.0.1:{self.flower_port}{self._environment.get('FLOWER_URL_PREFIX', '')}"
        probes = {"web": f"{self.url}/healthz", "flower": f"{flower}/healthcheck"}
        if name in probes:
            try:
                return requests.get(probes[name], timeout=2).ok
            except requests.RequestException:
                return False
        if name.startswith("beat"):
            return any(self.directory.glob(f"{name}-schedule*"))
        return b" ready." in self.log_file(name).read_bytes()[self._said_before[name] :]
