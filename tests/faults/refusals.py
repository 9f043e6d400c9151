"""Faults of servers that are up and say no: the database, and the broker."""

import random
import time
from collections import deque

from tests.faults.fault import fault
from tests.faults.slowness import server_of
from tests.stack import Stack

LONG = 10.0
"""Seconds."""


@fault("database", cuts_conversations=False)
def database_turns_read_only_under_the_dot(stack: Stack, rng: random.Random) -> None:
    """A primary that became a replica: SQLSTATE 25006, an InternalError, on connections that stay."""
    pauses = server_of(stack).pauses["BODY"] = deque([3.0] * 2)
    stack.wait_for(lambda: not pauses, "two payloads", seconds=60)
    with stack.postgres.read_only():
        time.sleep(LONG)


@fault("database", cuts_conversations=False)
def database_disk_full(stack: Stack, rng: random.Random) -> None:
    """SQLSTATE 53100 for messages and attempts; what needs no space goes on."""
    time.sleep(rng.uniform(3, 6))
    with stack.postgres.refusing("53100", "mailer_message", "mailer_deliveryattempt"):
        time.sleep(LONG)


@fault("database")
def database_without_free_connections(stack: Stack, rng: random.Random) -> None:
    """Existing connections are closed, and others took all places: SQLSTATE 53300, which arrives as a failed connection."""
    time.sleep(rng.uniform(3, 6))
    with stack.postgres.without_free_connections():
        time.sleep(LONG)


@fault("database")
def database_ends_idle_transactions(stack: Stack, rng: random.Random) -> None:
    """SQLSTATE 25P03 for a process that pauses between two statements of a transaction."""
    time.sleep(rng.uniform(3, 6))
    with stack.postgres.setting("idle_in_transaction_session_timeout", "2"):
        time.sleep(LONG)


@fault("broker")
def broker_is_a_replica_for_a_while(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    with stack.valkey.as_replica():
        time.sleep(LONG)


@fault("broker")
def broker_loads_its_file_for_a_while(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    stack.valkey.restart_slowly(LONG)


@fault("broker")
def broker_gets_another_password_for_a_while(stack: Stack, rng: random.Random) -> None:
    """Until the processes get it too, which takes a restart; here the old password returns."""
    time.sleep(rng.uniform(2, 4))
    with stack.valkey.locked():
        time.sleep(LONG)


REFUSALS = [
    database_turns_read_only_under_the_dot,
    database_disk_full,
    database_without_free_connections,
    database_ends_idle_transactions,
    broker_is_a_replica_for_a_while,
    broker_loads_its_file_for_a_while,
    broker_gets_another_password_for_a_while,
]
