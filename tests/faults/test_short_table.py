"""Three short rows of the table, with the most useful faults and a dozen sign-ups each."""

import os
import random
import signal
import time

import pytest

from tests.faults.brokers import NamedValkey
from tests.faults.fault import Fault, fault
from tests.faults.faults import TWO_OF_EACH, await_payload, deploy
from tests.faults.load import SignUps
from tests.faults.row import measure
from tests.smtp_sink import SLOW
from tests.stack import Stack


@fault("web", "worker", "beat", cuts_conversations=False)
def deployed(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (0.8, SLOW)
    deploy(stack)


@fault("worker", processes=TWO_OF_EACH)
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
    with stack.valkey.slow_to_find():
        stack.valkey.stop(signal.SIGKILL)
        stack.valkey.forget()
        stack.valkey.start()
        time.sleep(3)
    with stack.valkey.out_of_memory():
        time.sleep(2)


@pytest.mark.parametrize(
    "fault",
    [deployed, children_of_one_worker_and_another_one_killed, broker_empty_and_slow_to_find_then_full],
    ids=lambda fault: fault.strike.__name__,
)
def test_committed_sign_ups_get_their_mail_under_every_fault(fault: Fault) -> None:
    row = measure(fault, SignUps(12, rolled_back=2, seconds=3), seed="short", patience=40)
    print(row)
    row.check(fault)
    assert row.committed == 12
    if "broker" in fault.hits:
        assert row.slowest_publish < 1  # a loose bound, because other tests run in parallel
