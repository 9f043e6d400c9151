"""Flower with a real worker: password, read-only, and no personal data."""

import os
import subprocess

import requests

from tests.environment import ENVIRONMENT, new_directory
from tests.smtp_sink import Sink
from tests.stack import BIN, PROJECT, Stack

LOGIN = ("operator", "flower")


def test_flower_shows_what_happened_behind_a_password_and_read_only(sink: Sink) -> None:
    with Stack(new_directory("flower"), sink) as stack:
        stack.start("flower", "worker")
        flower = f"http://127.0.0.1:{stack.flower_port}"
        stack.manage("send_test_email", "ann@example.com")
        stack.wait_for(lambda: sink.received, "the mail")

        def tasks() -> str:
            return requests.get(f"{flower}/api/tasks", auth=LOGIN, timeout=5).text

        stack.wait_for(lambda: '"state": "SUCCESS"' in tasks(), "the task in Flower")

        assert "mailer.tasks.deliver_message" in tasks()
        assert '"args": "1 (mailer.TestEmail)"' in tasks()
        assert '"result": "\'sent 250\'"' in tasks()
        assert "ann" not in tasks()
        assert requests.get(f"{flower}/tasks", timeout=5).status_code == 401
        assert requests.get(f"{flower}/tasks", auth=LOGIN, timeout=5).status_code == 200
        shutdown = requests.post(f"{flower}/api/worker/shutdown/celery@x", auth=LOGIN, timeout=5)
        assert shutdown.status_code == 403

        def states() -> list[bool]:
            return list(requests.get(f"{flower}/api/workers?status=1", auth=LOGIN, timeout=5).json().values())

        stack.wait_for(lambda: states() == [True], "the worker in Flower")
        stack.kill("worker")
        stack.wait_for(lambda: states() == [False], "Flower to show that the worker is dead", seconds=15)


def test_flower_does_not_start_without_a_password() -> None:
    done = subprocess.run(
        [BIN / "celery", "-A", "config", "flower", "--port=0"],
        cwd=PROJECT,
        env={**os.environ, **ENVIRONMENT, "FLOWER_BASIC_AUTH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode != 0
    assert "set FLOWER_BASIC_AUTH=user:password" in done.stderr
    assert "Traceback" not in done.stderr
