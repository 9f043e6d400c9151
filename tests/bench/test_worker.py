"""A worker with tens of thousands of messages: its memory, and the number of tasks for a backlog."""

import os
import re
import subprocess
import time

import pytest

from tests.environment import new_directory
from tests.smtp_sink import SLOW, Sink
from tests.stack import Stack

pytestmark = [pytest.mark.bench, pytest.mark.long, pytest.mark.timeout(7200)]

MESSAGES = int(os.environ.get("MESSAGES", "50000"))
BACKLOG = int(os.environ.get("BACKLOG", "100000"))

DUE = """
INSERT INTO mailer_message (kind, arguments, recipient, subject, message_id_header, queue, key, state, reason, attempts,
    counted_after)
SELECT 'mailer.TestEmail', '{"address": "ann@example.com", "sent_by": "a benchmark"}', 'ann@example.com', '',
    '<' || n || '@example.com>', 'default', '', 'queued', '', 0, 0
FROM generate_series(1, %s) AS n
"""


def test_the_memory_of_a_worker_stays_flat() -> None:
    with Sink() as sink, Stack(new_directory("bench"), sink) as stack:
        stack.sql(DUE, MESSAGES)
        stack.start("worker", "beat")
        began = time.monotonic()
        memory: dict[int, float] = {}
        for share in range(1, 11):
            target = MESSAGES * share // 10
            stack.wait_for(lambda: len(sink.received) >= target, f"{target} mails", seconds=1200)  # noqa: B023
            memory[target] = megabytes_of(stack.children("worker"))
            print(f"\n{target:>7} mails {memory[target]:>7.1f} MB {target / (time.monotonic() - began):>6.0f} a second")
        assert {len(received.recipients) for received in sink.received} == {1}

    after_warming_up, *_, at_the_end = memory.values()
    assert at_the_end < after_warming_up * 1.1 + 5


def test_a_backlog_before_a_slow_server_does_not_multiply_the_tasks() -> None:
    with Sink() as sink, Stack(new_directory("bench"), sink) as stack:
        stack.sql(DUE, BACKLOG)
        sink.script.sometimes["BODY"] = (1.0, SLOW)  # a second for each mail
        stack.start("worker", "beat")
        time.sleep(120)
        published = len(re.findall(r"\] published ", stack.log("worker")))
        print(f"\n{BACKLOG} due, {len(sink.received)} sent in 120 s, {published} tasks made")

    assert len(sink.received) > 100
    assert published <= len(sink.received)  # a task delivers for five seconds


def megabytes_of(processes: list[int]) -> float:
    """Return the memory of these processes, shared pages included."""
    pids = ",".join(map(str, processes))
    kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", pids], capture_output=True, text=True, check=True).stdout
    return sum(map(int, kilobytes.split())) / 1024
