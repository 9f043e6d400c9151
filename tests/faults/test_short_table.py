"""Short rows of the table, with the most useful faults, a dozen sign-ups each, and short times in place of the defaults."""

import os
import random
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.brokers import NamedValkey
from tests.faults.cable import Cable
from tests.faults.clocks import DAY, wrong
from tests.faults.fault import TWO_WORKERS, Fault, fault
from tests.faults.faults import TWO_OF_EACH, await_payload, deploy
from tests.faults.load import Load, Mails, SignUps
from tests.faults.row import measure
from tests.faults.slowness import (
    database_behind_a_cable,
    one_worker_cut_off,
    server_of,
)
from tests.smtp_sink import SLOW
from tests.stack import QUICK, Stack

pytestmark = [pytest.mark.drill, pytest.mark.timeout(120)]


@fault("web", "worker", "beat", cuts_conversations=False)
def deployed(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (0.8, SLOW)
    deploy(stack)


@fault("worker", processes=TWO_OF_EACH, needs_children=True)
def children_of_one_worker_and_another_one_killed(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (1.0, SLOW)
    await_payload(stack)
    for child in stack.children("worker"):
        os.kill(child, signal.SIGKILL)
    stack.kill("worker-2")


@fault("broker", broker=NamedValkey)
def broker_empty_and_slow_to_find_then_full(stack: Stack, rng: random.Random) -> None:
    assert isinstance(stack.valkey, NamedValkey)
    time.sleep(rng.uniform(0, 1))
    with stack.valkey.names.slow(3):
        stack.valkey.stop(signal.SIGKILL)
        stack.valkey.forget()
        stack.valkey.start()
        time.sleep(3)
    with stack.valkey.out_of_memory():
        time.sleep(2)


@fault("broker", processes=("worker", "worker-2"), setting=wrong("worker-2", DAY), load=Mails)
def clock_a_day_ahead_and_no_beat_and_the_broker_empty(stack: Stack, rng: random.Random) -> None:
    stack.valkey.stop(signal.SIGKILL)
    stack.valkey.forget()
    time.sleep(3)
    stack.valkey.start()


@fault("database", cuts_conversations=False)
def late_answers_to_the_dot_and_a_database_that_turns_read_only(stack: Stack, rng: random.Random) -> None:
    """Later than the silence that ends other phases."""
    pauses = server_of(stack).pauses["BODY"] = deque([4.0, 4.0])
    stack.wait_for(lambda: not pauses, "two payloads", seconds=20)
    with stack.postgres.read_only():
        time.sleep(5)


@contextmanager
def one_worker_cut_off_and_the_database_behind_a_cable(stack: Stack) -> Iterator[Cable]:
    with one_worker_cut_off(stack), database_behind_a_cable(stack) as cable:
        yield cable


@fault("worker", processes=TWO_WORKERS, setting=one_worker_cut_off_and_the_database_behind_a_cable)
def one_worker_has_no_way_out_and_the_database_of_the_other_is_half_open(stack: Stack, rng: random.Random) -> None:
    await_payload(stack)
    stack.surrounding(Cable).silence()


LOADS: dict[Any, Load] = {SignUps: SignUps(12, rolled_back=2, seconds=3), Mails: Mails(12, seconds=3)}

SHORT = [
    deployed,
    broker_empty_and_slow_to_find_then_full,
    one_worker_has_no_way_out_and_the_database_of_the_other_is_half_open,
]
LONG = [
    children_of_one_worker_and_another_one_killed,
    clock_a_day_ahead_and_no_beat_and_the_broker_empty,
    late_answers_to_the_dot_and_a_database_that_turns_read_only,
]
"""In `make faults` only. Of these kinds `test_main_job` has a worker that dies, an empty broker and a database that goes away
under the dot; the state machine has processes that die and wrong clocks.
"""
ROWS = [pytest.param(each, marks=[pytest.mark.faults] if each in LONG else []) for each in (*SHORT, *LONG) if each.fits]


@pytest.mark.parametrize("fault", ROWS, ids=lambda fault: fault.strike.__name__)
def test_committed_sign_ups_get_their_mail_under_every_fault(fault: Fault) -> None:
    row = measure(fault, LOADS[fault.load], seed="short", patience=40, **QUICK)
    print(row)
    row.check(fault)
    assert row.committed == 12
    if "broker" in fault.hits and fault.load is SignUps:
        assert row.slowest_publish < 1  # a loose bound, because other tests run in parallel
