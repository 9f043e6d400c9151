"""The faults of real installations: processes die; servers vanish, lose data, fill up and fall silent.

Dead processes are started again, as by a supervisor. Nothing else is done by hand.
"""

import contextlib
import os
import random
import signal
import sys
import time

from tests.faults.brokers import CabledValkey, NamedValkey, ReplicatedValkey
from tests.faults.fault import Fault, fault
from tests.smtp_sink import CUT, HANG, SLOW
from tests.stack import Stack

TWO_OF_EACH = ("web", "worker", "worker-2", "beat", "beat-2")

# --- Our own processes -----------------------------------------------------------------------------------------------


@fault("worker")
def worker_killed(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (0.3, SLOW)  # so that it dies during conversations
    for _ in range(3):
        time.sleep(rng.uniform(1, 4))
        stack.kill("worker")
        stack.start("worker")


@fault("worker", needs_children=True)
def worker_children_killed(stack: Stack, rng: random.Random) -> None:
    """Kill one process of the pool at a time; the worker replaces it."""
    stack.sink.script.sometimes["BODY"] = (0.3, SLOW)
    for _ in range(8):
        time.sleep(rng.uniform(0.5, 2))
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(stack.children("worker")), signal.SIGKILL)


@fault("worker", processes=TWO_OF_EACH)
def two_workers_two_beats_one_worker_killed(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (0.3, SLOW)
    for _ in range(4):
        time.sleep(rng.uniform(1, 3))
        name = rng.choice(["worker", "worker-2"])
        stack.kill(name)
        stack.start(name)


@fault("web", "worker", "beat", cuts_conversations=False)
def deployed_three_times(stack: Stack, rng: random.Random) -> str:
    stack.sink.script.sometimes["BODY"] = (0.8, SLOW)
    stops = []
    for _ in range(3):
        time.sleep(rng.uniform(2, 5))
        stops.append(deploy(stack))
    return f"slowest stop of the worker: {max(stops):.1f} s"


def deploy(stack: Stack) -> float:
    """Stop and start our processes in order, as in a release. Return the seconds that the worker took to stop."""
    await_payload(stack)
    seconds = stack.stop("worker")
    for name in ("beat", "web"):
        stack.stop(name)
        stack.start(name)
    stack.start("worker")
    return seconds


def await_payload(stack: Stack) -> None:
    """Wait up to 5 s until the mail server gets a mail, which it may not have answered yet."""
    before = len(stack.sink.received)
    with contextlib.suppress(AssertionError):
        stack.wait_for(lambda: len(stack.sink.received) > before, "a mail", seconds=5)


@fault("web")
def web_killed(stack: Stack, rng: random.Random) -> None:
    for _ in range(8):
        time.sleep(rng.uniform(0.5, 2))
        stack.kill("web")
        stack.start("web")


# --- The broker ------------------------------------------------------------------------------------------------------


@fault("broker")
def broker_comes_back_empty(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 6))
    stack.valkey.stop(signal.SIGKILL)
    stack.valkey.forget()
    time.sleep(1)
    stack.valkey.start()


@fault("broker")
def broker_comes_back_with_its_file(stack: Stack, rng: random.Random) -> None:
    for _ in range(3):
        time.sleep(rng.uniform(2, 4))
        stack.valkey.stop(signal.SIGKILL)
        stack.valkey.start()


@fault("broker")
def broker_down_for_a_while(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    stack.valkey.stop(signal.SIGKILL)
    time.sleep(12)
    stack.valkey.start()


@fault("broker")
def broker_frozen_for_a_while(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    with stack.valkey.frozen():
        time.sleep(10)


@fault("broker")
def broker_out_of_memory(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    with stack.valkey.out_of_memory():
        time.sleep(10)


@fault("broker")
def broker_disk_full(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    with stack.valkey.disk_full():
        time.sleep(10)


@fault("broker", "beat")
def beat_away_and_broker_empty(stack: Stack, rng: random.Random) -> None:
    """Lose all tasks while beat, which triggers the sweep, is down."""
    time.sleep(rng.uniform(2, 4))
    stack.kill("beat")
    broker_comes_back_empty.strike(stack, rng)
    time.sleep(rng.uniform(6, 10))
    stack.start("beat")


@fault("broker", broker=CabledValkey)
def broker_connections_half_open(stack: Stack, rng: random.Random) -> None:
    """Silence all connections for ever, twice. New ones work at once the first time, and after 5 s the second time."""
    assert isinstance(stack.valkey, CabledValkey)
    time.sleep(rng.uniform(2, 4))
    stack.valkey.cable.silence()
    time.sleep(rng.uniform(6, 8))
    with stack.valkey.cable.silent():
        time.sleep(5)


@fault("broker", broker=ReplicatedValkey)
def sentinels_fail_over(stack: Stack, rng: random.Random) -> None:
    assert isinstance(stack.valkey, ReplicatedValkey)
    time.sleep(rng.uniform(3, 6))
    stack.valkey.lose_primary()
    time.sleep(15)
    stack.valkey.return_primary()


@fault("broker", broker=NamedValkey)
def broker_name_slow_to_find(stack: Stack, rng: random.Random) -> None:
    """Restart the broker too, because a connected client does not resolve its name."""
    assert isinstance(stack.valkey, NamedValkey)
    time.sleep(rng.uniform(2, 4))
    with stack.valkey.names.slow(3):
        for _ in range(3):
            stack.valkey.stop(signal.SIGKILL)
            stack.valkey.start()
            time.sleep(rng.uniform(4, 6))


# --- The database ----------------------------------------------------------------------------------------------------


@fault("database")
def postgresql_restarted(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(3, 6))
    stack.postgres.stop(signal.SIGQUIT)  # "immediate": no shutdown, and recovery at the start
    stack.postgres.start()


# --- The mail server -------------------------------------------------------------------------------------------------


@fault("mail server")
def server_refuses_for_20_seconds(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.always["CONNECT"] = "421 4.3.2 closed"
    stack.sink.close_all_connections()
    time.sleep(20)
    del stack.sink.script.always["CONNECT"]


@fault("mail server")
def server_silent_for_20_seconds(stack: Stack, rng: random.Random) -> None:
    """Stay silent first in place of the reply to a payload, then from the start of each connection."""
    time.sleep(rng.uniform(1, 3))
    stack.sink.script.always["BODY"] = HANG
    time.sleep(10)
    stack.sink.script.always["CONNECT"] = HANG
    stack.sink.close_all_connections()
    del stack.sink.script.always["BODY"]
    time.sleep(10)
    del stack.sink.script.always["CONNECT"]
    stack.sink.close_all_connections()  # a server that comes back knows them no longer


@fault("mail server")
def refused_for_now_every_third_time(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["RCPT"] = (0.3, "451 4.3.0 try again")


@fault("mail server")
def cut_before_the_reply(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (0.1, CUT)


# ---------------------------------------------------------------------------------------------------------------------


@fault("worker", "broker", "database", "mail server")
def several_at_once(stack: Stack, rng: random.Random) -> None:
    for each in (
        refused_for_now_every_third_time,
        cut_before_the_reply,
        worker_killed,
        broker_comes_back_empty,
        postgresql_restarted,
    ):
        each.strike(stack, rng)


@fault("worker", "broker", "database")
def worker_broker_and_database_killed_repeatedly(stack: Stack, rng: random.Random) -> None:
    for _ in range(3):
        worker_killed.strike(stack, rng)
        broker_comes_back_empty.strike(stack, rng)
        postgresql_restarted.strike(stack, rng)


@fault(cuts_conversations=False)
def no_fault(stack: Stack, rng: random.Random) -> None:
    """Change nothing: the baseline."""


DEATHS: list[Fault] = [  # in the order of the table
    worker_killed,
    worker_children_killed,
    two_workers_two_beats_one_worker_killed,
    deployed_three_times,
    web_killed,
    broker_comes_back_empty,
    broker_comes_back_with_its_file,
    broker_down_for_a_while,
    broker_frozen_for_a_while,
    broker_out_of_memory,
    *([broker_disk_full] if sys.platform == "linux" else []),
    beat_away_and_broker_empty,
    broker_connections_half_open,
    sentinels_fail_over,
    broker_name_slow_to_find,
    postgresql_restarted,
    server_refuses_for_20_seconds,
    server_silent_for_20_seconds,
    refused_for_now_every_third_time,
    cut_before_the_reply,
    several_at_once,
]
