"""The health check of the worker's container, on a worker that loses its servers."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import files
from tests.environment import new_directory
from tests.servers import Server
from tests.smtp_sink import Sink
from tests.stack import Stack

ROUNDS = 1.5
"""Seconds in which a worker that is well touches its file at least once."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    directory = new_directory("health")
    with Sink() as sink, Stack(directory, sink, POSTCOMMIT_HEALTH_FILE=str(directory / "healthy")) as stack:
        stack.start("worker")
        yield stack


def is_healthy(file: Path) -> bool:
    """Run the check of docker-compose.yml on this file."""
    shell, command = files.services()["worker"]["healthcheck"]["test"]
    assert shell == "CMD-SHELL"
    usual = files.environment("worker", files.SECRETS)["POSTCOMMIT_HEALTH_FILE"]
    assert usual in command
    here = files.interpolate(command, {}).replace(usual, str(file))
    return subprocess.run(["sh", "-c", here], check=False).returncode == 0


def stays_old(file: Path) -> bool:
    """Make the file older than the check allows, and return whether the worker leaves it so."""
    os.utime(file, (time.time() - 61, time.time() - 61))
    time.sleep(ROUNDS)
    return not is_healthy(file)


def test_a_worker_that_has_never_started_is_not_healthy(tmp_path: Path) -> None:
    assert not is_healthy(tmp_path / "healthy")


@pytest.mark.drill
@pytest.mark.parametrize("server", ["valkey", "postgres"])
def test_a_worker_is_healthy_while_broker_and_database_answer(stack: Stack, server: str) -> None:
    file = stack.directory / "healthy"
    away: Server = getattr(stack, server)
    stack.wait_for(lambda: is_healthy(file), "a healthy worker")

    away.stop()
    assert is_healthy(file)  # for a minute
    stack.wait_for(lambda: stays_old(file), f"the worker to miss {server}")

    away.start()
    stack.wait_for(lambda: is_healthy(file), "a healthy worker")
