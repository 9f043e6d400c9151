"""The load during a fault: sign-ups that commit, and some that are rolled back."""

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import requests

from tests.stack import Stack

AT_A_TIME = 4
"""The number of people who sign up at the same time."""
TRIES = 100
"""The largest number of tries of one person."""


@dataclass(frozen=True, slots=True)
class Visit:
    """The result of one person who tried until it worked."""

    failures: int
    slowest: float
    """The slowest request (seconds)."""


class Load(Protocol):
    """A source of mail."""

    def prepare(self, stack: Stack) -> None:
        """Run before the fault."""

    def run(self, stack: Stack) -> Sequence[Visit]:
        """Run during the fault."""


@dataclass(frozen=True, slots=True)
class SignUps:
    """`count` sign-ups through the form, four at a time, for at least `seconds`, and some that are rolled back."""

    count: int
    rolled_back: int = 30
    seconds: float = 20

    def prepare(self, stack: Stack) -> None:
        """Run those that are rolled back, and the first sign-up, which is slow because the web process imports modules."""
        stack.run(ROLL_BACK, TIMES=str(self.rolled_back))
        stack.sign_up("person-0@example.com")

    def run(self, stack: Stack) -> list[Visit]:
        """Run the other sign-ups, each until it has worked."""
        with ThreadPoolExecutor(AT_A_TIME) as people:
            return list(people.map(lambda number: self._sign_up(stack, number), range(1, self.count)))

    def _sign_up(self, stack: Stack, number: int) -> Visit:
        """Sign up, and repeat a request that failed. If it was committed, the second one causes no second mail."""
        time.sleep(self.seconds * AT_A_TIME / self.count)
        tries: list[float] = []
        for failures in range(TRIES):
            began = time.monotonic()
            with contextlib.suppress(requests.RequestException):
                stack.sign_up(f"person-{number}@example.com").raise_for_status()
                return Visit(failures, max([*tries, time.monotonic() - began]))
            tries.append(time.monotonic() - began)
            time.sleep(0.5)
        return Visit(TRIES, max(tries))


ROLL_BACK = """
import os
from django.db import transaction
from accounts.signup import sign_up

for n in range(int(os.environ["TIMES"])):
    try:
        with transaction.atomic():
            sign_up(f"rolled-back-{n}@example.com", "a password 1", language="en")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
"""


@dataclass(frozen=True, slots=True)
class Mails:
    """A script that enqueues `count` mails in default and bulk, which have a deadline of an hour, for about `seconds`."""

    count: int
    seconds: float = 20

    def prepare(self, stack: Stack) -> None:
        """Do nothing."""

    def run(self, stack: Stack) -> list[Visit]:
        """Run the script; it makes no requests."""
        stack.run(ENQUEUE_SLOWLY, COUNT=str(self.count), SECONDS=str(self.seconds))
        return []


ENQUEUE_SLOWLY = """
import os, time
from mailer import outbox
from mailer.emails import TestEmail

count = int(os.environ["COUNT"])
for n in range(count):
    TestEmail.queue = ["default", "bulk"][n % 2]
    outbox.enqueue(TestEmail(f"person-{n}@example.com", "a test"))
    time.sleep(float(os.environ["SECONDS"]) / count)
"""


@dataclass(frozen=True, slots=True)
class Batches:
    """A script that enqueues mails in transactions of 25, of which every tenth is rolled back."""

    messages: int

    def prepare(self, stack: Stack) -> None:
        """Do nothing."""

    def run(self, stack: Stack) -> list[Visit]:
        """Run the script; it makes no requests."""
        stack.run(ENQUEUE, MESSAGES=str(self.messages))
        return []


ENQUEUE = """
import os, time
from datetime import timedelta
from itertools import batched
from django.db import InterfaceError, OperationalError, connection, transaction
from accounts import verification
from accounts.emails import VerifyAddress
from accounts.models import User
from mailer import outbox

for number, batch in enumerate(batched(range(int(os.environ["MESSAGES"])), 25)):
    try:
        with transaction.atomic():
            for person in batch:
                user = User.objects.create_user(f"person-{person}@example.com")
                outbox.enqueue(VerifyAddress(verification.begin(user)), delay=timedelta(seconds=1))
            if number % 10 == 9:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    except (OperationalError, InterfaceError):
        connection.close()
        time.sleep(0.5)
"""
