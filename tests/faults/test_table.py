"""The table: committed sign-ups under one fault at a time, and their mail.

    make faults                                   # all rows, about a minute each; then the table
    make faults ARGS='-k broker' SIGN_UPS=50 SEED=7
    make faults POOL=threads
    make faults ARGS='-k combination' COMBINATIONS=10
    make faults ARGS='-k thousand' MESSAGES=2000

The seed makes the choices repeatable, but not the timing.
"""

import os
import random
from collections.abc import Iterator

import pytest

from tests.faults.absences import ABSENCES
from tests.faults.clocks import CLOCKS
from tests.faults.fault import Fault, together
from tests.faults.faults import DEATHS, no_fault, worker_broker_and_database_killed_repeatedly
from tests.faults.load import Batches, Load
from tests.faults.refusals import REFUSALS
from tests.faults.row import Row, measure
from tests.faults.slowness import SLOWNESS
from tests.stack import POOL

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SIGN_UPS = int(os.environ.get("SIGN_UPS", "216"))
COMBINATIONS = int(os.environ.get("COMBINATIONS", "2"))
MESSAGES = int(os.environ.get("MESSAGES", "10000"))
SEED = os.environ.get("SEED", "20261122")

FAULTS = [fault for fault in (*DEATHS, *SLOWNESS, *CLOCKS, *REFUSALS, *ABSENCES) if fault.fits]

LONGER = 0.3
"""Seconds that a request may take longer because of mail."""

TABLE: list[Row] = []


@pytest.fixture(scope="module", autouse=True)
def print_table() -> Iterator[None]:
    """Print the table after the last row."""
    yield
    print("\n".join(["", f"seed {SEED}, {SIGN_UPS} mails a row, pool {POOL}", Row.HEAD, *map(str, TABLE)]))


def measured(fault: Fault, *, name: str = "", load: Load | None = None, patience: float | None = None) -> Row:
    row = measure(fault, load or fault.load(SIGN_UPS), name=name, seed=SEED, patience=patience)
    TABLE.append(row)
    row.check(fault)
    return row


@pytest.fixture(scope="module")
def quiet() -> Row:
    """The row without a fault, on this machine."""
    return measured(no_fault)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.strike.__name__)
def test_committed_sign_ups_get_their_mail_under_every_fault(fault: Fault, quiet: Row) -> None:
    row = measured(fault)
    assert row.committed == SIGN_UPS
    if "broker" in fault.hits and fault.requests_must_succeed:
        assert row.slowest_publish < quiet.slowest_publish + LONGER


@pytest.mark.parametrize("number", range(1, COMBINATIONS + 1))
def test_a_combination_of_three_faults(number: int) -> None:
    dice = random.Random(f"{SEED}-combination-{number}")
    drawn = dice.sample([fault for fault in FAULTS if fault.is_common], 3)
    measured(together(drawn), name=f"combination {number}")


@pytest.mark.timeout(1800)
def test_ten_thousand_messages() -> None:
    row = measured(
        worker_broker_and_database_killed_repeatedly,
        name=f"{MESSAGES} messages; worker, broker, database",
        load=Batches(MESSAGES),
        patience=1500,
    )
    assert row.committed > MESSAGES * 0.8
