"""`make start`, `restart` and `stop` from the outside, with all processes."""

import os
import re
import signal
import socket

import pytest

from local.environment import ADDRESS
from tests.environment import new_directory
from tests.local.checkout import Checkout, Start, wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(240)]  # all processes start, and other tests run at the same time

ORDER = ["web", "worker", "beat", "flower", "inbox", "valkey", "postgres"]
"""The order of the stop."""


@pytest.fixture
def checkout() -> Checkout:
    return Checkout(new_directory("checkout") / "Check Out")


def stopped(log: str) -> list[str]:
    return re.findall(r"stopped: (\w+)", log)


def test_processes_come_back_and_stop_in_order_and_secrets_survive_a_start_that_fails(checkout: Checkout) -> None:
    """One installation for all of it, because a start takes many seconds."""
    with checkout.started() as start:
        the_page_of_each_process_answers(checkout, start)
        first, before = checkout.variables, checkout.pids

        again = checkout.make("start")
        assert again.returncode == 0
        assert again.stdout.startswith("Postcommit is already running")
        assert f"http://localhost:{checkout.ports['WEB_PORT']}/" in again.stdout

        os.kill(before["worker"], signal.SIGKILL)
        wait_until(lambda: checkout.pids["worker"] not in (0, before["worker"]))

        restart = checkout.make("restart")
        assert restart.returncode == 0, restart.stderr
        assert re.findall(r"^(\w+) restarted", restart.stdout, re.MULTILINE) == ORDER[:4]
        after = checkout.pids
        assert {name for name in before if before[name] != after[name]} == set(ORDER[:4])
        assert all(after.values())
        ctrl_c_stops_all_processes_in_order(checkout, start)

    a_process_that_cannot_start_is_reported_with_its_log_and_the_others_stop(checkout)
    assert checkout.variables["SECRET_KEY"] == first["SECRET_KEY"]


def test_data_and_secrets_survive_a_stop_and_a_start_with_production_values(checkout: Checkout) -> None:
    with checkout.started() as start:
        first = checkout.variables
        assert checkout.make("stop").stdout.endswith("Stopped.\n")
        assert start.ends() == 0
        assert start.output.endswith("Stopped.\n")

    checkout.ports["WEB_PORT"], checkout.ports["INBOX_PORT"] = checkout.ports["INBOX_PORT"], checkout.ports["WEB_PORT"]
    with checkout.started(DEBUG="0") as start:
        assert "shown this once" not in start.output  # the administrator exists
        assert checkout.variables["SECRET_KEY"] == first["SECRET_KEY"]
        assert checkout.variables["SITE_URL"] == f"http://localhost:{checkout.ports['WEB_PORT']}" != first["SITE_URL"]
        pages_load_their_collected_files(checkout)
        ctrl_c_stops_all_processes_in_order(checkout, start)


def the_page_of_each_process_answers(checkout: Checkout, start: Start) -> None:
    assert f"http://localhost:{checkout.ports['WEB_PORT']}/admin/" in start.output
    assert checkout.variables["FLOWER_BASIC_AUTH"] in start.output
    assert "shown this once" in start.output
    assert checkout.status("WEB_PORT") == 200
    assert checkout.status("WEB_PORT", "/admin/login/") == 200
    assert checkout.status("FLOWER_PORT") == 401
    assert checkout.status("INBOX_PORT") == 200
    with socket.create_connection((ADDRESS, checkout.ports["INBOX_SMTP_PORT"]), timeout=5) as smtp:
        assert smtp.recv(3) == b"220"


def a_process_that_cannot_start_is_reported_with_its_log_and_the_others_stop(checkout: Checkout) -> None:
    (checkout.root / "flowerconfig.py").write_text("raise SystemExit('no flowers today')\n")
    with checkout.started() as start:
        assert start.ends() != 0
        assert "flower ended while it was starting" in start.output
        assert "    no flowers today\n" in start.output
        assert "http://localhost" not in start.output
        assert not checkout.pids


def pages_load_their_collected_files(checkout: Checkout) -> None:
    """Production values need the collected static files, whose names contain a hash."""
    for path in ("/", "/accounts/login/", "/accounts/signup/", "/admin/login/"):
        status, page = checkout.page("WEB_PORT", path)
        assert status == 200
        linked = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
        assert {checkout.status("WEB_PORT", file) for file in linked} == {200}
        assert all(re.search(r"\.[0-9a-f]{12}\.\w+$", file) for file in linked)
    assert checkout.page("WEB_PORT", "/nothing")[0] == 404


def ctrl_c_stops_all_processes_in_order(checkout: Checkout, start: Start) -> None:
    start.presses_ctrl_c()
    wait_until(lambda: "Stopping in order" in start.output)
    start.presses_ctrl_c()
    start.ends()
    assert stopped(checkout.supervisor_log)[-len(ORDER) :] == ORDER
    assert "SIGKILL" not in checkout.supervisor_log.rpartition("indicating exit request")[2]
    assert start.output.endswith("Stopped.\n")
    assert "Traceback" not in start.output


def test_a_broken_variable_is_reported_without_a_traceback(checkout: Checkout) -> None:
    (checkout.root / ".env").write_text("EMAIL_URL=pigeon://loft\n")
    done = checkout.make("start")
    assert done.returncode != 0
    assert "EMAIL_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not checkout.pids


def test_a_taken_port_is_reported_in_one_line(checkout: Checkout) -> None:
    with socket.create_server((ADDRESS, checkout.ports["INBOX_PORT"])):
        done = checkout.make("start")
    assert done.returncode != 0
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"Port {checkout.ports['INBOX_PORT']} is taken")
    assert "INBOX_PORT" in first
    assert [line for line in rest if not line.startswith("make:")] == []


def test_stop_and_restart_need_a_start(checkout: Checkout) -> None:
    stop, restart = checkout.make("stop"), checkout.make("restart")
    assert (stop.returncode, stop.stdout) == (0, "Postcommit is not running here.\n")
    assert restart.returncode != 0
    assert restart.stderr.startswith("Postcommit is not running here")
