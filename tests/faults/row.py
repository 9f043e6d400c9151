"""A row of the table: what the database committed and what the mail server received, and the history of each mail."""

import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from mailer.models import Outcome
from tests.environment import new_directory
from tests.faults.fault import RECOVERY, Fault
from tests.faults.load import Load
from tests.faults.mail_server import MailServer
from tests.history import Change, violations
from tests.stack import AS_SHIPPED, Stack


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    committed: int
    lost: int
    rolled_back_but_sent: int
    copies: int
    wrongly_doubled: int
    """Copies of a message beyond one for each of its own attempts without an answer."""
    uncertain_attempts: int
    history: list[str]
    """What must not be in the history of any message."""
    recovery: float
    """Seconds from the end of the fault to the first mail."""
    failed_requests: int
    slowest_request: float
    slowest_publish: float
    """The longest time (seconds) that publishing delayed a request after its commit."""
    drained_in: float
    remark: str

    HEAD = (
        f"{'fault':<58}{'committed':>10}{'lost':>6}{'rolled back, sent':>19}{'copies':>8}{'wrongly':>9}{'uncertain':>11}"
        f"{'history':>9}{'recovery':>10}{'failed req.':>13}{'slowest':>9}{'publish':>9}{'drained':>9}"
    )

    def __str__(self) -> str:
        return (
            f"{self.name:<58}{self.committed:>10}{self.lost:>6}{self.rolled_back_but_sent:>19}{self.copies:>8}"
            f"{self.wrongly_doubled:>9}{self.uncertain_attempts:>11}{len(self.history):>9}{self.recovery:>9.1f}s"
            f"{self.failed_requests:>13}{self.slowest_request:>8.2f}s{self.slowest_publish:>8.3f}s{self.drained_in:>8.1f}s"
            f"  {self.remark}"
        ).rstrip()

    def check(self, fault: Fault) -> None:
        """Check what must hold under every fault, and what must hold under this one."""
        assert self.history == []
        assert (self.lost, self.rolled_back_but_sent, self.wrongly_doubled) == (0, 0, 0)
        assert self.recovery <= RECOVERY
        if not fault.cuts_conversations:
            assert self.uncertain_attempts == 0
        if fault.requests_must_succeed:
            assert self.failed_requests == 0


def measure(
    fault: Fault, load: Load, *, name: str = "", seed: str, patience: float | None = None, **settings: str
) -> Row:
    """Cause the fault in a complete installation under load, and wait until every message is settled.

    The installation has the defaults of the mailer, except for `settings`.
    """
    name, patience = name or fault.name, patience or fault.patience
    rng = random.Random(f"{seed}-{name}")
    server = MailServer()
    with server, Stack(new_directory("faults"), server, fault.broker, AS_SHIPPED | settings) as stack:
        server.script.rng = random.Random(rng.random())
        stack.surround(fault.setting(stack))
        stack.start(*fault.processes)
        load.prepare(stack)
        began = time.time()
        with ThreadPoolExecutor(1) as background:
            struck = background.submit(lambda: (fault.strike(stack, rng) or "", time.time()))
            visits = load.run(stack)
            loaded = time.time()
        remark, ended = struck.result()
        server.script.sometimes.clear()
        stack.run(ONE_MORE)
        stack.wait_for(lambda: all_settled(stack), "every message to be settled", seconds=patience)
        settled = time.time()
        history = stack.history()
        within = timedelta(seconds=ended - began + patience)
        return Row(
            name=name,
            **receipts(stack, server, history),
            history=violations(history, within=within, until=history[-1].at),
            recovery=recovery(stack, server, history, ended),
            failed_requests=sum(visit.failures for visit in visits),
            slowest_request=max((visit.slowest for visit in visits), default=0.0),
            slowest_publish=max(publish_seconds(stack), default=0.0),
            drained_in=settled - max(ended, loaded),
            remark=remark,
        )


ONE_MORE = """
from mailer import outbox
from mailer.emails import TestEmail
TestEmail.queue = "default"
outbox.enqueue(TestEmail("after-the-fault@example.com", "a test"))
"""
"""So that there is a mail to measure the recovery with."""


def all_settled(stack: Stack) -> bool:
    query = "SELECT count(*) AS open FROM mailer_message WHERE state IN ('queued', 'sending', 'retrying')"
    return bool(stack.sql(query)[0]["open"] == 0)


def receipts(stack: Stack, server: MailServer, history: Sequence[Change]) -> Mapping[str, int]:
    """Compare what the database committed with what the mail server received."""
    messages = stack.sql("SELECT id, recipient, message_id_header FROM mailer_message WHERE kind <> 'tests.Poison'")
    committed = {row["email"] for row in stack.sql("SELECT email FROM accounts_user")}
    committed |= {row["recipient"] for row in messages}
    received = {r.recipients[0] for r in server.received}
    # An answer that came late replaces `uncertain` in the row, but not in the history.
    uncertain = {(c.message_id, c.number) for c in history if c.what == "attempt" and c.new == Outcome.UNCERTAIN}
    by_message = Counter(message_id for message_id, _ in uncertain)
    # Copies have one Message-ID, so that receivers can drop them.
    times = Counter(str(r.parsed["Message-ID"]) for r in server.received)
    return {
        "committed": len(committed) - 1,  # without ONE_MORE
        "lost": len(committed - received),
        "rolled_back_but_sent": len(received - committed),
        "copies": len(server.received) - len(received),
        "wrongly_doubled": sum(max(times[row["message_id_header"]] - 1 - by_message[row["id"]], 0) for row in messages),
        "uncertain_attempts": len(uncertain),
    }


def recovery(stack: Stack, server: MailServer, history: Sequence[Change], ended: float) -> float:
    """Return the seconds to the first mail from the end of the fault, or from when mail was first due after it."""
    due = {c.message_id: c.due_at.timestamp() for c in history if c.due_at and c.old is None}
    headers = {row["message_id_header"]: row["id"] for row in stack.messages()}
    arrived: dict[int, float] = {}
    for received, at in zip(server.received, server.arrivals.times, strict=True):
        if at >= ended:
            arrived.setdefault(headers[str(received.parsed["Message-ID"])], at)
    return max(min(arrived.values()) - max(ended, min(due[each] for each in arrived)), 0.0)


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
