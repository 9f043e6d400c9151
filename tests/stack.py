"""The whole of Postcommit as it runs in production: web, worker, beat, PostgreSQL, broker and mail server, each a process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import requests
from psycopg.rows import dict_row

from tests.environment import ENVIRONMENT
from tests.servers import Postgres, Valkey
from tests.smtp_sink import Sink

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

QUICK = {
    "VERIFICATION_DELAY": "1",
    "MAILER_SWEEP_EVERY": "0.5",
    "MAILER_REPUBLISH_AFTER": "2",
    "MAILER_BACKOFF_BASE": "0.5",
    "MAILER_SMTP_TIMEOUT": "2",
    "MAILER_CLAIM_LEASE": "4",
}
"""Seconds instead of minutes: the same code, in the time of a test."""


class Stack:
    """`with Stack(tmp_path) as stack: stack.start("web", "worker", "beat")`."""

    def __init__(self, directory: Path, sink: Sink, **environment: str) -> None:
        self.directory, self.sink = directory, sink
        self.postgres, self.valkey = Postgres(directory / "pg"), Valkey(directory / "vk")
        self.web_port = _free_port()
        self.flower_port = _free_port()
        self.url = f"http://localhost:{self.web_port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            **ENVIRONMENT,
            **QUICK,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "EMAIL_URL": sink.url,
            "SITE_URL": self.url,
            "WEB_PORT": str(self.web_port),
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._commands = {
            "web": ["gunicorn", "config.wsgi"],
            "worker": ["celery", "-A", "config", "worker", "-Q", "critical,default,bulk", "--concurrency", "2"],
            "beat": ["celery", "-A", "config", "beat", "--schedule", str(directory / "beat-schedule")],
            "flower": ["celery", "-A", "config", "flower", f"--port={self.flower_port}", "--address=127.0.0.1"],
        }

    def __enter__(self) -> "Stack":
        try:
            self.postgres.start()
            self.valkey.start()
            self.manage("migrate", "--verbosity", "0")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)
        self.valkey.stop()
        self.postgres.stop()

    def start(self, *names: str) -> None:
        """Starts processes and waits until they do their work."""
        for name in names:
            with self.log_file(name).open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [BIN / self._commands[name][0], *self._commands[name][1:]],
                    cwd=PROJECT,
                    env=self._environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        for name in names:
            self.wait_for(partial(self._is_up, name), f"{name} to start", seconds=30)

    def stop(self, name: str) -> None:
        """Ends a process in order, and waits for it."""
        self._processes[name].terminate()
        self._processes.pop(name).wait(20)

    def kill(self, name: str) -> None:
        """Ends a process and its children at once, as a crash of the machine would."""
        process = self._processes.pop(name, None)
        if process is not None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            process.wait(10)

    def manage(self, *arguments: str, **environment: str) -> str:
        """Runs a manage.py command and returns what it prints."""
        return self._run(sys.executable, "manage.py", *arguments, **environment)

    def run(self, script: str) -> str:
        """Runs Python in a process of its own, with Django set up."""
        return self._run(sys.executable, "-c", f"import django; django.setup()\n{script}")

    def _run(self, *command: str, **environment: str) -> str:
        variables = self._environment | environment
        done = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sql(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """What the database says."""
        with psycopg.connect(self.postgres.url, row_factory=dict_row) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def messages(self) -> list[dict[str, Any]]:
        """All rows of the outbox, the oldest first."""
        return self.sql("SELECT * FROM mailer_message ORDER BY id")

    def log_file(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def log(self, name: str) -> str:
        """What a process has logged so far."""
        return self.log_file(name).read_text() if self.log_file(name).exists() else ""

    def sign_up(self, email: str) -> requests.Response:
        """Signs up as a browser would, with the form's token."""
        with requests.Session() as browser:
            page = browser.get(f"{self.url}/accounts/signup/", timeout=10)
            page.raise_for_status()
            password = "correct horse 9 battery"
            data = {"email": email, "password1": password, "password2": password}
            token = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
            return browser.post(page.url, data | token, timeout=10)

    def wait_for(self, condition: Callable[[], object], what: str, *, seconds: float = 15) -> None:
        """Waits until a condition holds; says what was waited for, and shows the logs, when it never does."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in self._commands)
                raise AssertionError(f"waited {seconds} s for {what}\n{logs}")
            time.sleep(0.05)

    def _is_up(self, name: str) -> bool:
        probes = {"web": f"{self.url}/healthz", "flower": f"http://127.0.0.1:{self.flower_port}/healthcheck"}
        if name in probes:
            try:
                return requests.get(probes[name], timeout=2).ok
            except requests.RequestException:
                return False
        if name == "beat":
            return any(self.directory.glob("beat-schedule*"))
        return " ready." in self.log(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
