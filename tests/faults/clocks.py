"""Faults of clocks: one machine of several has another time, or its time was corrected."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from tests.faults.fault import TWO_WORKERS, Setting, fault
from tests.faults.faults import broker_comes_back_empty
from tests.faults.load import Mails
from tests.faults.machines import clock, machine
from tests.stack import Process, Stack

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def wrong(name: str, ahead: timedelta) -> Setting:
    """Run a process on a machine of its own whose clock is ahead."""

    @contextmanager
    def setting(stack: Stack) -> Iterator[None]:
        stack.options[name] = Process(environment=machine("elsewhere") | clock(ahead))
        yield

    return setting


@fault("mail server", processes=TWO_WORKERS, setting=wrong("worker-2", DAY), load=Mails, patience=90)
def clock_of_a_worker_a_day_ahead_and_the_mail_server_away(stack: Stack, rng: random.Random) -> None:
    """Each worker may note until when the transport is paused, or when the next attempt is due."""
    for _ in range(2):
        time.sleep(rng.uniform(2, 4))
        stack.sink.script.always["CONNECT"] = "421 4.3.2 closed"
        stack.sink.close_all_connections()
        time.sleep(6)
        del stack.sink.script.always["CONNECT"]


@fault("worker", processes=TWO_WORKERS, setting=wrong("worker-2", 1.1 * HOUR), load=Mails, cuts_conversations=False)
def clock_of_a_worker_an_hour_ahead(stack: Stack, rng: random.Random) -> None:
    """The mails have a deadline of an hour, which is over by that clock."""
    time.sleep(20)


@fault("worker", processes=TWO_WORKERS, setting=wrong("worker-2", -HOUR), patience=30, cuts_conversations=False)
def clock_of_a_worker_an_hour_behind(stack: Stack, rng: random.Random) -> None:
    """No mail is due by that clock."""
    time.sleep(20)


@fault("worker", setting=wrong("worker", -HOUR), patience=30, cuts_conversations=False)
def clock_of_the_only_worker_an_hour_behind(stack: Stack, rng: random.Random) -> None:
    time.sleep(20)


@fault("web", setting=wrong("web", HOUR), patience=30, cuts_conversations=False)
def clock_of_web_an_hour_ahead(stack: Stack, rng: random.Random) -> None:
    """It writes when mail is due."""
    time.sleep(20)


@fault("broker", processes=("web", "worker"), patience=60, cuts_conversations=False)
def no_beat_and_the_broker_comes_back_empty(stack: Stack, rng: random.Random) -> None:
    """What the broker lost is found without beat."""
    broker_comes_back_empty.strike(stack, rng)


@fault("broker", "beat", setting=wrong("beat", HOUR), patience=60, cuts_conversations=False)
def clock_of_beat_corrected_and_the_broker_comes_back_empty(stack: Stack, rng: random.Random) -> None:
    """Beat's schedule file remembers times that are an hour away."""
    time.sleep(3)
    stack.stop("beat")
    del stack.options["beat"]
    stack.start("beat")
    broker_comes_back_empty.strike(stack, rng)


CLOCKS = [
    clock_of_a_worker_a_day_ahead_and_the_mail_server_away,
    clock_of_a_worker_an_hour_ahead,
    clock_of_a_worker_an_hour_behind,
    clock_of_the_only_worker_an_hour_behind,
    clock_of_web_an_hour_ahead,
    no_beat_and_the_broker_comes_back_empty,
    clock_of_beat_corrected_and_the_broker_comes_back_empty,
]
