"""deploy/partition-mail.sql, which a person runs when deleting old mail row by row takes too long."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from local import servers
from tests.environment import ENVIRONMENT
from tests.servers import Postgres
from tests.stack import PROJECT

ENQUEUE_TWICE = """
from mailer import outbox
from mailer.emails import TestEmail
from django.db import connection, transaction
for sequence in (2500, 4500):
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT setval(pg_get_serial_sequence('mailer_message', 'id'), %s)", [sequence])
        print(outbox.enqueue(TestEmail("ann@example.com", "boss"), key="weekly").pk)
"""
SETTLE = "UPDATE mailer_message SET settled_at = now() WHERE id < 2000"
REPORT = """
    INSERT INTO mailer_deliveryevent
        (source, event_id, what, bounce, recipient, original_recipient, code, text, at, about, message_id)
    SELECT 'bounce mail', '1', 'bounced', 'soft', '', '', '', '', now(), '{}', min(id) FROM mailer_message
"""
DROP = "CALL mailer_drop_partition('0', '0 days')"
NUMBERS = "SELECT (SELECT count(*) FROM mailer_message), (SELECT count(*) FROM mailer_deliveryattempt)"


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """A database of its own, with all migrations."""
    server = postgres.url.rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE partitioned TEMPLATE postcommit")
        yield f"{server}/partitioned"
        connection.execute("DROP DATABASE partitioned WITH (FORCE)")


def manage(url: str, *arguments: str) -> str:
    environment = {**os.environ, **ENVIRONMENT, "DATABASE_URL": url}
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True).stdout


def partition(url: str, size: int) -> None:
    psql = [str(servers._binary("psql")), url, "--quiet", f"--set=size={size}"]
    subprocess.run([*psql, "--file=deploy/partition-mail.sql"], cwd=PROJECT, check=True, capture_output=True)


def test_mail_lives_in_partitions_that_are_dropped_when_nothing_in_them_is_needed(url: str) -> None:
    manage(url, "seed_mail", "--messages", "500")
    partition(url, 2000)

    first, second = manage(url, "shell", "--no-imports", "-c", ENQUEUE_TWICE).split()

    assert first == second == "2501"  # the second one would be in the next partition
    with psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="must be kept"):
            connection.execute(DROP)
        connection.execute(SETTLE)
        connection.execute(REPORT)
        connection.execute(DROP)
        assert connection.execute("SELECT FROM mailer_deliveryevent").fetchall() == []
        assert connection.execute(NUMBERS).fetchone() == (1, 0)
