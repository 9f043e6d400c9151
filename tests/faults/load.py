"""What people do while something fails: sign-ups that commit, and some that do not."""

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import requests

from tests.stack import Stack

AT_A_TIME = 4
"""People."""
TIMEOUT = 100
"""How often somebody tries."""


@dataclass(frozen=True, slots=True)
class Visit:
    """How somebody fared who tried until it worked."""

    failures: int
    slowest: float
    """Of the requests (seconds)."""


class Load(Protocol):
    """Something that asks for mail."""

    def prepare(self, stack: Stack) -> None:
        """What is done while all is well."""

    def run(self, stack: Stack) -> Sequence[Visit]:
        """What is done while something fails."""


@dataclass(frozen=True, slots=True)
class SignUps:
    """So many people at the form, four at a time, for so many seconds at the least; and some who are rolled back."""

    count: int
    rolled_back: int = 30
    seconds: float = 20

    def prepare(self, stack: Stack) -> None:
        """Those who are rolled back; and the first person, for whom the web process imports what it had no use for before."""
        stack.run(ROLL_BACK, TIMES=str(self.rolled_back))
        stack.sign_up("person-0@example.com")

    def run(self, stack: Stack) -> list[Visit]:
        """Everybody else, each until it has worked."""
        with ThreadPoolExecutor(AT_A_TIME) as people:
            return list(people.map(lambda number: self._sign_up(stack, number), range(1, self.count)))

    def _sign_up(self, stack: Stack, number: int) -> Visit:
        """Who cannot know whether a request that failed was committed asks again, which brings no second mail."""
        time.sleep(self.seconds * AT_A_TIME / self.count)
        tries: list[float] = []
        for failures in range(TIMEOUT):
            began = time.monotonic()
            with contextlib.suppress(requests.RequestException):
                stack.sign_up(f"person-{number}@example.com").raise_for_status()
                return Visit(failures, max([*tries, time.monotonic() - began]))
            tries.append(time.monotonic() - began)
            time.sleep(0.5)  # nobody hammers
        return Visit(TIMEOUT, max(tries))


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
class Batches:
    """A script that asks for so many mails, in transactions of 25 of which every tenth is rolled back."""

    messages: int

    def prepare(self, stack: Stack) -> None:
        """Nothing."""

    def run(self, stack: Stack) -> list[Visit]:
        """There are no requests."""
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
