"""A PostgreSQL with all migrations, made once for all processes of a test run: each server starts with a copy."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import psycopg

from tests import history
from tests.environment import ENVIRONMENT, OF_THE_RUN
from tests.servers import Postgres

PROJECT = Path(__file__).resolve().parent.parent
READY = OF_THE_RUN / "ready"


def copy_to(data: Path) -> None:
    """Make a data directory. `postcommit` is for installations, with their history, and `test_postcommit` for pytest."""
    server = Postgres(OF_THE_RUN / "pg")
    with (OF_THE_RUN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not READY.exists():
            _make(server)
            READY.touch()
    subprocess.run(["cp", "-a", server.data, data], check=True)  # keeps the owner


def _make(server: Postgres) -> None:
    server.start()
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=PROJECT, env=os.environ | ENVIRONMENT | {"DATABASE_URL": server.url}, check=True)
    with psycopg.connect(f"{server.url.rpartition('/')[0]}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_postcommit TEMPLATE postcommit")
    with psycopg.connect(server.url) as connection:
        connection.execute(history.INSTALL)
    server.stop()
