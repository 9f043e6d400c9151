"""Faults of parts that are missing for long: the broker, the workers of a queue, a worker that one message kills each time."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg

from tests.faults.fault import RECOVERY, TWO_WORKERS, fault
from tests.faults.load import Mails, SignUps
from tests.faults.slowness import headers
from tests.smtp_sink import SLOW
from tests.stack import Process, Stack


def longest_wait(stack: Stack) -> float:
    """Return the seconds for which the oldest due message waits; 0 if none is due."""
    query = (
        "SELECT extract(epoch FROM now() - min(due_at))::float AS seconds FROM mailer_message "
        "WHERE state IN ('queued', 'retrying') AND due_at < now()"
    )
    return stack.sql(query)[0]["seconds"] or 0.0


@fault("broker", load=partial(SignUps, seconds=50), cuts_conversations=False)
def broker_away_for_a_minute(stack: Stack, rng: random.Random) -> str:
    """Mail that is committed meanwhile waits for seconds; also with a worker that was started meanwhile."""
    time.sleep(3)
    stack.valkey.stop(signal.SIGKILL)
    waits = waits_for(stack, 30)
    stack.kill("worker")
    stack.launch("worker")
    waits += waits_for(stack, 30)
    stack.valkey.start()
    assert max(waits) < RECOVERY, "due mail waits for the broker"
    return f"longest wait while it was away: {max(waits):.1f} s"


def waits_for(stack: Stack, seconds: int) -> list[float]:
    """Return the longest wait of due mail, in each second."""
    waits = []
    for _ in range(seconds):
        time.sleep(1)
        waits.append(longest_wait(stack))
    return waits


@contextmanager
def no_worker_for_critical(stack: Stack) -> Iterator[None]:
    for name in ("worker", "worker-2"):
        stack.options[name] = Process(queues="default,bulk")
    yield


@fault("worker", setting=no_worker_for_critical, processes=TWO_WORKERS, load=Mails, patience=60)
def nobody_serves_the_critical_queue_and_a_worker_dies(stack: Stack, rng: random.Random) -> None:
    """The other queues go on, and what the dead worker had claimed is settled."""
    stack.sink.script.sometimes["BODY"] = (0.3, SLOW)
    time.sleep(rng.uniform(3, 6))
    stack.kill("worker")
    time.sleep(20)


@contextmanager
def worker_that_knows_poison(stack: Stack) -> Iterator[None]:
    stack.options["worker"] = Process(imports="tests.faults.kinds")
    yield


POISON = """
from mailer import outbox
from tests.faults.kinds import Poison
outbox.enqueue(Poison("poison@example.com"))
"""


@fault("worker", setting=worker_that_knows_poison)
def a_mail_kills_its_worker(stack: Stack, rng: random.Random) -> str:
    """It is held after a few deaths, and other mail is delivered. A supervisor starts a worker that ended."""
    stack.run(POISON)
    began = time.monotonic()
    deaths = 0
    while stack.sql("SELECT state FROM mailer_message WHERE kind = 'tests.Poison'") != [{"state": "held"}]:
        assert time.monotonic() - began < 120, "a message goes on killing workers"
        if stack.has_ended("worker"):
            deaths += 1
            stack.kill("worker")
            stack.launch("worker")
        time.sleep(0.2)
    return f"held after {time.monotonic() - began:.0f} s; the worker was started again {deaths} times"


@contextmanager
def worker_with_a_receiver(stack: Stack) -> Iterator[None]:
    stack.options["worker"] = Process(imports="tests.faults.receivers")
    yield


@fault("worker", setting=worker_with_a_receiver, cuts_conversations=False)
def receivers_wait_for_a_lock_and_the_worker_is_killed(stack: Stack, rng: random.Random) -> None:
    """What the server said is on record before receivers run, so that nothing is lost with them."""
    with psycopg.connect(stack.postgres.url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(20261127)")
        stack.wait_for(lambda: len(stack.sink.received) >= 2, "two mails", seconds=60)
        time.sleep(5)  # every sender waits for the lock by now
        received = {str(r.parsed["Message-ID"]) for r in stack.sink.received}
        assert received <= headers(stack, "sent"), "an outcome waits for receivers"
        stack.kill("worker")
    stack.start("worker")


ABSENCES = [
    broker_away_for_a_minute,
    nobody_serves_the_critical_queue_and_a_worker_dies,
    a_mail_kills_its_worker,
    receivers_wait_for_a_lock_and_the_worker_is_killed,
]
