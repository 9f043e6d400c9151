"""Faults of the network between parts that are well: slow answers, slow names, lost packets."""

import os
import random
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.brokers import CabledValkey
from tests.faults.cable import Cable
from tests.faults.fault import TWO_WORKERS, fault
from tests.faults.faults import await_payload
from tests.faults.machines import SlowNames, machine
from tests.faults.mail_server import MailServer
from tests.stack import Process, Stack


def server_of(stack: Stack) -> MailServer:
    assert isinstance(stack.sink, MailServer)
    return stack.sink


def answer_late(stack: Stack, count: int, seconds: float) -> None:
    """Let the next payloads wait for their answer, and return after the last answer."""
    pauses = server_of(stack).pauses["BODY"] = deque([seconds] * count)
    stack.wait_for(lambda: not pauses, "the last payload", seconds=120)
    time.sleep(seconds + 0.5)


@fault("mail server", cuts_conversations=False)
def answer_to_the_dot_after_20_seconds(stack: Stack, rng: random.Random) -> None:
    """A server may take ten minutes (RFC 5321, 4.5.3.2.6), longer than the silence that ends other phases."""
    answer_late(stack, 4, 20)


@contextmanager
def mail_server_by_name(stack: Stack) -> Iterator[SlowNames]:
    """Give the mail server a name."""
    names = SlowNames(stack.directory / "names")
    url = f"smtp://{names.host('mail')}:{stack.sink.port}"
    stack.options["worker"] = Process(environment=names.environment | {"EMAIL_URL": url})
    yield names


@fault("mail server", setting=mail_server_by_name, cuts_conversations=False)
def mail_server_name_slow_to_find(stack: Stack, rng: random.Random) -> None:
    """Look-ups that begin within 5 s take longer than any claim may be silent. Nothing bounds `getaddrinfo`."""
    await_payload(stack)
    with stack.surrounding(SlowNames).slow(70):
        stack.sink.close_all_connections()
        time.sleep(5)
    time.sleep(70)


@contextmanager
def database_behind_a_cable(stack: Stack) -> Iterator[Cable]:
    """Let a worker with one sender reach PostgreSQL through a cable."""
    with Cable(stack.postgres.sockets / ".s.PGSQL.5432") as cable:
        url = f"postgres://postgres@127.0.0.1:{cable.port}/postcommit"
        stack.options["worker"] = Process(concurrency=1, environment={"DATABASE_URL": url})
        yield cable


@fault("worker", setting=database_behind_a_cable)
def database_connections_half_open(stack: Stack, rng: random.Random) -> None:
    """Lose all packets of the present connections for ever. New ones work."""
    await_payload(stack)
    stack.surrounding(Cable).silence()


@fault("worker", setting=database_behind_a_cable)
def database_out_of_reach_for_10_seconds(stack: Stack, rng: random.Random) -> None:
    """Lose all packets between a worker and PostgreSQL, those of new connections too."""
    time.sleep(rng.uniform(3, 6))
    with stack.surrounding(Cable).silent():
        time.sleep(10)


@fault("broker", broker=CabledValkey)
def every_answer_of_the_broker_takes_100_ms(stack: Stack, rng: random.Random) -> None:
    assert isinstance(stack.valkey, CabledValkey)
    stack.valkey.cable.delay = 0.1
    time.sleep(20)


@contextmanager
def one_worker_cut_off(stack: Stack) -> Iterator[None]:
    """Run the second worker on another machine, whose packets to the mail server are lost."""
    with Cable(stack.sink.port) as cable, cable.silent():
        url = f"smtp://127.0.0.1:{cable.port}"
        stack.options["worker-2"] = Process(environment=machine("cut-off") | {"EMAIL_URL": url})
        yield


@fault("worker", processes=TWO_WORKERS, setting=one_worker_cut_off, cuts_conversations=False, patience=30)
def one_of_two_workers_has_no_way_out(stack: Stack, rng: random.Random) -> None:
    """The other one sends everything, and the fault never ends."""
    time.sleep(20)


@contextmanager
def two_machines(stack: Stack) -> Iterator[None]:
    """Run one sender in the first worker, and the second worker on another machine."""
    stack.options["worker"] = Process(concurrency=1)
    stack.options["worker-2"] = Process(environment=machine("second"))
    yield


@fault("worker", setting=two_machines)
def worker_stopped_before_it_sends_and_woken_later(stack: Stack, rng: random.Random) -> None:
    """A stopped process loses its claim. When it goes on, it must not send what another worker has sent.

    The server takes its time for MAIL, so that the process is stopped between its claim and the dot.
    """
    pauses = server_of(stack).pauses["MAIL"] = deque([3.0])
    stack.wait_for(lambda: not pauses, "MAIL", seconds=60)
    claimed = {row["message_id_header"] for row in stack.messages() if row["state"] == "sending"}
    assert claimed
    stopped = stack.senders("worker")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        stack.start("worker-2")
        stack.wait_for(lambda: claimed <= headers(stack, "sent"), "another worker to send it", seconds=90)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    time.sleep(5)
    copies = [r for r in stack.sink.received if str(r.parsed["Message-ID"]) in claimed]
    assert len(copies) == len(claimed), "a worker that had lost its claim sent the mail"


def headers(stack: Stack, state: str) -> set[str]:
    """Return the Message-IDs of the messages in a state."""
    return {row["message_id_header"] for row in stack.messages() if row["state"] == state}


SLOWNESS = [
    answer_to_the_dot_after_20_seconds,
    mail_server_name_slow_to_find,
    database_connections_half_open,
    database_out_of_reach_for_10_seconds,
    every_answer_of_the_broker_takes_100_ms,
    one_of_two_workers_has_no_way_out,
    worker_stopped_before_it_sends_and_woken_later,
]
