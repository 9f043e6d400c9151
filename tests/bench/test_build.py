"""The cost of building a mail: rendered, inlined, and serialised for a server.

make bench ARGS=tests/bench/test_build.py               # more builds, for a more stable table
"""

import os
import statistics
import time

import pytest
from pytest_django import Settings

from mailer import email
from mailer.composing import templates
from mailer.composing.css import ENGINES
from mailer.composing.message import assemble
from mailer.email import Email
from mailer.mime import encoding

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

BUILDS = int(os.environ.get("BUILDS", "8"))
BUDGET = 2.0
"""Milliseconds of CPU for the verification mail on a quiet machine of 2026."""
SLACK = 4
"""The tolerance for other machines and parallel tests."""

SHIPPED = {name: kind for name, kind in sorted(email.KINDS.items()) if kind.template and not name.startswith("tests.")}


def build(mail: Email) -> tuple[int, int]:
    """Build it. Return the bytes of its HTML and of the whole message."""
    recipient = mail.recipient()
    content = templates.render(mail, recipient)
    message = assemble(mail, recipient, content, message_id="<1@example.com>")
    return len(content.html.encode()), len(encoding.octets(encoding.build(message, eight_bit=True)))


def milliseconds(mail: Email, builds: int) -> float:
    """Return the median CPU time of one build, after a warm-up."""
    build(mail)
    taken = []
    for _ in range(builds):
        began = time.process_time_ns()
        build(mail)
        taken.append((time.process_time_ns() - began) / 1e6)
    return statistics.median(taken)


def test_a_table_of_what_each_kind_costs(settings: Settings) -> None:
    lines = [
        f"{'ms of CPU, median':<32}{''.join(f'{engine:>12}' for engine in sorted(ENGINES))}{'HTML':>10}{'in all':>10}"
    ]
    for name, kind in SHIPPED.items():
        cells = []
        for engine in sorted(ENGINES):
            settings.POSTCOMMIT = settings.POSTCOMMIT | {"INLINER": engine}
            cells.append(f"{milliseconds(kind.sample(), BUILDS):>12.2f}")
        html, whole = build(kind.sample())
        lines.append(f"{name:<32}{''.join(cells)}{html:>10}{whole:>10}")
    print("", *lines, sep="\n")

    assert len(lines) > 10


def test_a_mail_is_built_within_its_budget() -> None:
    taken = milliseconds(SHIPPED["accounts.VerifyAddress"].sample(), max(BUILDS, 200))
    print(f"\naccounts.VerifyAddress: {taken:.2f} ms of CPU")

    assert taken < BUDGET * SLACK
