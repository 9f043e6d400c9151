"""A row of the table: what the database committed, compared with what the mail server received."""

import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from tests.environment import new_directory
from tests.faults.fault import Fault
from tests.faults.load import Load, Visit
from tests.smtp_sink import Sink
from tests.stack import Stack


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    committed: int
    lost: int
    rolled_back_but_sent: int
    copies: int
    uncertain_attempts: int
    failed_requests: int
    slowest_request: float
    slowest_publish: float
    """The longest time (seconds) that publishing delayed a request after its commit."""
    drained_in: float
    remark: str

    HEAD = (
        f"{'fault':<40}{'committed':>10}{'lost':>6}{'rolled back, sent':>19}{'copies':>8}{'uncertain':>11}"
        f"{'failed req.':>13}{'slowest':>9}{'publish':>9}{'drained':>9}"
    )

    def __str__(self) -> str:
        return (
            f"{self.name:<40}{self.committed:>10}{self.lost:>6}{self.rolled_back_but_sent:>19}{self.copies:>8}"
            f"{self.uncertain_attempts:>11}{self.failed_requests:>13}{self.slowest_request:>8.2f}s"
            f"{self.slowest_publish:>8.3f}s{self.drained_in:>8.1f}s  {self.remark}"
        ).rstrip()

    def check(self, fault: Fault) -> None:
        """Check what must hold under every fault, and what must hold under this one."""
        assert (self.lost, self.rolled_back_but_sent) == (0, 0)
        assert self.copies <= self.uncertain_attempts
        if not fault.cuts_conversations:
            assert self.uncertain_attempts == 0
        if fault.requests_must_succeed:
            assert self.failed_requests == 0


def measure(fault: Fault, load: Load, *, name: str = "", seed: str, patience: float = 180) -> Row:
    """Cause the fault in a complete installation under load, and wait until every message is settled."""
    name = name or fault.name
    rng = random.Random(f"{seed}-{name}")
    with Sink() as sink, Stack(new_directory("faults"), sink, fault.broker) as stack:
        sink.script.rng = random.Random(rng.random())
        stack.start(*fault.processes)
        load.prepare(stack)
        with ThreadPoolExecutor(1) as background:
            struck = background.submit(fault.strike, stack, rng)
            visits = load.run(stack)
        remark = struck.result() or ""
        sink.script.sometimes.clear()
        began = time.monotonic()
        stack.wait_for(lambda: all_settled(stack), "every message to be settled", seconds=patience)
        return judge(stack, visits, name=name, remark=remark, drained_in=time.monotonic() - began)


def all_settled(stack: Stack) -> bool:
    query = "SELECT count(*) AS open FROM mailer_message WHERE state IN ('queued', 'sending', 'retrying')"
    return bool(stack.sql(query)[0]["open"] == 0)


def judge(stack: Stack, visits: Sequence[Visit], *, name: str, remark: str, drained_in: float) -> Row:
    """Compare what the database committed with what the mail server received."""
    committed = {row["email"] for row in stack.sql("SELECT email FROM accounts_user")}
    received = Counter(r.recipients[0] for r in stack.sink.received)
    ids = {r.recipients[0]: r.parsed["Message-ID"] for r in stack.sink.received}
    # Copies have one Message-ID, so that receivers can drop them.
    assert all(r.parsed["Message-ID"] == ids[r.recipients[0]] for r in stack.sink.received)
    uncertain = stack.sql("SELECT count(*) AS n FROM mailer_deliveryattempt WHERE outcome = 'uncertain'")[0]["n"]
    return Row(
        name=name,
        committed=len(committed),
        lost=len(committed - received.keys()),
        rolled_back_but_sent=len(received.keys() - committed),
        copies=sum(received.values()) - len(received),
        uncertain_attempts=uncertain,
        failed_requests=sum(visit.failures for visit in visits),
        slowest_request=max((visit.slowest for visit in visits), default=0.0),
        slowest_publish=max(publish_seconds(stack)) if visits else 0.0,
        drained_in=drained_in,
        remark=remark,
    )


def publish_seconds(stack: Stack) -> list[float]:
    """Return the seconds of publishing in each sign-up, from two log lines of the web process.

    The first is written just before publishing, the second one just after.
    """
    log = stack.log("web")
    enqueued = {int(number): moment for moment, number in ENQUEUED.findall(log)}
    signed_up = {int(number): moment for moment, number in SIGNED_UP.findall(log)}
    pairs = stack.sql("SELECT id, user_id FROM mailer_message")
    return [
        (
            datetime.fromisoformat(signed_up[row["user_id"]]) - datetime.fromisoformat(enqueued[row["id"]])
        ).total_seconds()
        for row in pairs
        if row["id"] in enqueued and row["user_id"] in signed_up
    ]


ENQUEUED = re.compile(r"^(\S+Z) .*\] enqueued .* message_id=(\d+)", re.MULTILINE)
SIGNED_UP = re.compile(r"^(\S+Z) .*\] signed up .* user=(\d+)", re.MULTILINE)
