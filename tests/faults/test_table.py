"""The table: committed sign-ups under one fault at a time, and what became of their mail.

    make faults                                   # all of it, about a minute a row, with the table at its end
    make faults ARGS='-k broker' SIGN_UPS=50 SEED=7

Processes that die are started again, as a supervisor would; nothing else is done by hand.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import requests

from tests.environment import new_directory
from tests.smtp_sink import CUT, SLOW, Sink
from tests.stack import Stack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SIGN_UPS = int(os.environ.get("SIGN_UPS", "216"))
SEED = int(os.environ.get("SEED", "20261122"))

Fault = Callable[[Stack, random.Random], None]


def worker_killed(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (0.3, SLOW)  # so that it dies in the middle of conversations
    for _ in range(3):
        time.sleep(rng.uniform(1, 4))
        stack.kill("worker")
        stack.start("worker")


def broker_comes_back_empty(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 6))
    stack.valkey.stop(signal.SIGKILL)
    for file in stack.valkey.socket.parent.glob("appendonlydir/*"):
        file.unlink()
    time.sleep(1)
    stack.valkey.start()


def broker_down_for_a_while(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    stack.valkey.stop(signal.SIGKILL)
    time.sleep(12)
    stack.valkey.start()


def broker_frozen_for_a_while(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(2, 4))
    with stack.valkey.frozen():
        time.sleep(10)


def postgresql_restarted(stack: Stack, rng: random.Random) -> None:
    time.sleep(rng.uniform(3, 6))
    stack.postgres.stop(signal.SIGQUIT)  # "immediate": no shutdown at all, and recovery at the start
    stack.postgres.start()


def server_refuses_for_20_seconds(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.always["CONNECT"] = "421 4.3.2 closed"
    stack.sink.hang_up_on_everybody()
    time.sleep(20)
    del stack.sink.script.always["CONNECT"]


def refused_for_now_every_third_time(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["RCPT"] = (0.3, "451 4.3.0 try again")


def web_killed(stack: Stack, rng: random.Random) -> None:
    for _ in range(8):
        time.sleep(rng.uniform(0.5, 2))
        stack.kill("web")
        stack.start("web")


def cut_before_the_reply(stack: Stack, rng: random.Random) -> None:
    stack.sink.script.sometimes["BODY"] = (0.1, CUT)


def several_at_once(stack: Stack, rng: random.Random) -> None:
    refused_for_now_every_third_time(stack, rng)
    cut_before_the_reply(stack, rng)
    worker_killed(stack, rng)
    broker_comes_back_empty(stack, rng)
    postgresql_restarted(stack, rng)


FAULTS: list[Fault] = [
    worker_killed,
    broker_comes_back_empty,
    broker_down_for_a_while,
    broker_frozen_for_a_while,
    postgresql_restarted,
    server_refuses_for_20_seconds,
    refused_for_now_every_third_time,
    web_killed,
    cut_before_the_reply,
    several_at_once,
]


@dataclass(slots=True)
class Row:
    """One line of the table."""

    fault: str
    committed: int
    lost: int
    rolled_back_but_sent: int
    copies: int
    uncertain_attempts: int
    failed_requests: int
    slowest_request: float
    drained_in: float


TABLE: list[Row] = []


@pytest.fixture(scope="module", autouse=True)
def print_table() -> object:
    """Shows the table when the last row is done."""
    yield
    heads = (
        "fault",
        "committed",
        "lost",
        "rolled back, sent",
        "copies",
        "uncertain",
        "failed req.",
        "slowest",
        "drained",
    )
    lines = [
        f"seed {SEED}, {SIGN_UPS} sign-ups a row",
        "{:<36}{:>10}{:>6}{:>19}{:>8}{:>11}{:>13}{:>9}{:>9}".format(*heads),
    ]
    lines += [
        f"{r.fault:<36}{r.committed:>10}{r.lost:>6}{r.rolled_back_but_sent:>19}{r.copies:>8}{r.uncertain_attempts:>11}"
        f"{r.failed_requests:>13}{r.slowest_request:>8.2f}s{r.drained_in:>8.1f}s"
        for r in TABLE
    ]
    print("\n" + "\n".join(lines))


ROLL_BACK = """
from django.db import transaction
from accounts.signup import sign_up
for n in range(30):
    try:
        with transaction.atomic():
            sign_up(f"rolled-back-{n}@example.com", "a password 1", language="en")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_commits_is_mailed_whatever_fails(fault: Fault) -> None:
    rng = random.Random(f"{SEED}-{fault.__name__}")
    with Sink() as sink, Stack(new_directory("faults"), sink) as stack:
        sink.script.rng = rng
        stack.start("web", "worker", "beat")
        stack.run(ROLL_BACK)
        saboteur = threading.Thread(target=fault, args=(stack, rng))
        saboteur.start()
        with ThreadPoolExecutor(4) as people:
            answers = list(people.map(lambda n: sign_up(stack, n), range(SIGN_UPS)))
        saboteur.join()
        sink.script.sometimes.clear()
        began = time.monotonic()
        stack.wait_for(lambda: all_settled(stack), "every message to be settled", seconds=180)
        row = judge(fault.__name__, stack, answers, time.monotonic() - began)
    TABLE.append(row)
    assert row.committed > SIGN_UPS / 2
    assert (row.lost, row.rolled_back_but_sent) == (0, 0)
    assert row.copies <= row.uncertain_attempts
    if fault not in (web_killed, postgresql_restarted, several_at_once):  # those need the two to be there
        assert row.failed_requests == 0


def sign_up(stack: Stack, number: int) -> tuple[bool, float]:
    """Whether the request was answered as it should be, and after how many seconds."""
    began = time.monotonic()
    try:
        succeeded = stack.sign_up(f"person-{number}@example.com").ok
    except requests.RequestException:
        succeeded = False
        time.sleep(0.5)  # a person would not hammer either
    return succeeded, time.monotonic() - began


def all_settled(stack: Stack) -> bool:
    query = "SELECT count(*) AS open FROM mailer_message WHERE state IN ('queued', 'sending', 'retrying')"
    return bool(stack.sql(query)[0]["open"] == 0)


def judge(fault: str, stack: Stack, answers: list[tuple[bool, float]], drained_in: float) -> Row:
    """Holds what the database committed against what the mail server received."""
    committed = {row["email"] for row in stack.sql("SELECT email FROM accounts_user")}
    received = Counter(r.recipients[0] for r in stack.sink.received)
    ids = {r.recipients[0]: r.parsed["Message-ID"] for r in stack.sink.received}
    assert all(r.parsed["Message-ID"] == ids[r.recipients[0]] for r in stack.sink.received)  # copies can be recognised
    uncertain = stack.sql("SELECT count(*) AS n FROM mailer_deliveryattempt WHERE outcome = 'uncertain'")[0]["n"]
    return Row(
        fault=fault.replace("_", " "),
        committed=len(committed),
        lost=len(committed - received.keys()),
        rolled_back_but_sent=len(received.keys() - committed),
        copies=sum(received.values()) - len(received),
        uncertain_attempts=uncertain,
        failed_requests=sum(not succeeded for succeeded, _ in answers),
        slowest_request=max(seconds for _, seconds in answers),
        drained_in=drained_in,
    )
