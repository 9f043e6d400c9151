"""Each rule of deploy/alerts.yml is drilled over real rows: the fault makes it ring, and the repair ends it.

The rows are scraped from /metrics, and promtool, which comes with Prometheus, evaluates the rules.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from pytest_django import Settings
from ruamel.yaml import YAML

from accounts.models import User
from mailer import outbox
from mailer.feedback import reputation
from mailer.models import Circuit, DeliveryAttempt, Message, Queue, Role, State, StreamReputation, Worker
from tests.deployment.files import ROOT
from tests.mailer.kinds import Plain
from tests.mailer.scrape import TOKEN, scrape

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")

ALERTS, DASHBOARD = ROOT / "deploy" / "alerts.yml", ROOT / "deploy" / "grafana.json"
RULES = [rule["alert"] for group in YAML(typ="safe").load(ALERTS)["groups"] for rule in group["rules"]]
MINUTES = 10
"""How long the numbers stay as they are: longer than the `for` of every rule."""

LONG_AGO = Now() - timedelta(minutes=30)
PAUSED = {"transport": "transport", "paused_since": LONG_AGO, "paused_until": Now() + timedelta(minutes=1)}


def silence(**times: Any) -> None:
    Worker.objects.filter(role=Role.WORKER).update(**times)


def settle_all(state: State) -> None:
    Message.objects.update(state=state, settled_at=Now())


def leave_a_queue_without_worker() -> None:
    Worker.objects.update(queues=["critical", "bulk"])
    Message.objects.update(first_due_at=Now() - timedelta(minutes=2))


FAULTS: Mapping[str, Callable[[], object]] = {
    "PostcommitNoWorker": lambda: silence(seen_at=LONG_AGO, swept_at=LONG_AGO, broker_at=LONG_AGO),
    "PostcommitQueueWithoutWorker": leave_a_queue_without_worker,
    "PostcommitSweepSilent": lambda: silence(swept_at=LONG_AGO),
    "PostcommitBeatSilent": lambda: Worker.objects.filter(role=Role.BEAT).update(seen_at=LONG_AGO),
    "PostcommitBrokerSilent": lambda: silence(broker_at=LONG_AGO),
    "PostcommitMailWaits": lambda: Message.objects.update(first_due_at=LONG_AGO, due_at=Now()),
    "PostcommitTransportPaused": lambda: Circuit.objects.create(**PAUSED),
    "PostcommitTransportNeedsPerson": lambda: Circuit.objects.create(**PAUSED, needs_person=True),
    "PostcommitStreamPaused": lambda: reputation.pause("news", ""),
    "PostcommitStreamComplaints": lambda: StreamReputation.objects.create(stream="news", complaints=4, sent=3_000),
    "PostcommitHeld": lambda: Message.objects.update(state=State.HELD, reason="perhaps sent"),
    "PostcommitQuarantined": lambda: Message.objects.update(state=State.HELD, reason="quarantined: 3 workers stopped"),
    "PostcommitFailures": lambda: settle_all(State.FAILED),
}
ALSO = {"PostcommitTransportNeedsPerson": {"PostcommitTransportPaused"}, "PostcommitQuarantined": {"PostcommitHeld"}}
"""What else rings, because it is true as well."""


@pytest.fixture
def healthy(user: User, settings: Settings) -> Callable[[], None]:
    """Return what makes all well: living processes, and mail that has just become due."""
    settings.POSTCOMMIT = {"METRICS_TOKEN": TOKEN}

    def repair() -> None:
        for model in (Worker, Circuit, Message, StreamReputation):
            model.objects.all().delete()
        Worker.objects.create(host="a", pid=1, queues=Queue.values, swept_at=Now(), broker_at=Now())
        Worker.objects.create(host="a", pid=2, role=Role.BEAT)
        outbox.enqueue_many([Plain(user)] * 5)

    return repair


@needs_promtool
@pytest.mark.parametrize("alert", FAULTS)
def test_the_alert_rings_during_its_fault_only(alert: str, healthy: Callable[[], None], tmp_path: Path) -> None:
    healthy()
    before = scrape()
    FAULTS[alert]()
    during = scrape()
    healthy()

    check([(before, set()), (during, {alert, *ALSO.get(alert, set())}), (scrape(), set())], tmp_path)


@needs_promtool
def test_no_numbers_at_all_ring(tmp_path: Path) -> None:
    """The page answers 503 without a database, and nothing without a site: Prometheus has no series then."""
    check([({}, {"PostcommitNoNumbers"})], tmp_path)


def test_each_rule_is_drilled() -> None:
    assert set(RULES) == {*FAULTS, "PostcommitNoNumbers"}


def test_the_rules_and_the_dashboard_ask_for_numbers_that_exist(healthy: Callable[[], None]) -> None:
    healthy()
    attempt = DeliveryAttempt(message=Message.objects.earliest("pk"), number=1, transport="transport")
    attempt.save()
    Message.objects.filter(pk=attempt.message_id).update(state=State.SENT, settled_at=Now())
    exist = {series.partition("{")[0] for series in scrape()}

    for file in (ALERTS, DASHBOARD):
        asked = set(re.findall(r"postcommit_\w+", file.read_text()))
        assert asked
        assert asked <= exist


@needs_promtool
def test_the_questions_of_the_dashboard_can_be_asked(tmp_path: Path) -> None:
    questions = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    rules = [{"record": f"question_{number}", "expr": question} for number, question in enumerate(questions)]
    file = tmp_path / "questions.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)

    assert f"{len(questions)} rules found" in done.stdout, done.stderr


def check(moments: list[tuple[Mapping[str, float], set[str]]], directory: Path) -> None:
    """Have promtool check that exactly these alerts ring at each of several moments, whose numbers stay for some minutes."""
    file = directory / "drill.yml"
    tests = [
        {
            "interval": "1m",
            "input_series": [
                {"series": series, "values": " ".join([str(value)] * MINUTES)} for series, value in numbers.items()
            ],
            "promql_expr_test": list(expectations(ringing)),
        }
        for numbers, ringing in moments
    ]
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expectations(ringing: set[str]) -> Iterator[dict[str, Any]]:
    for rule in RULES:
        rings = f'count(ALERTS{{alertname="{rule}",alertstate="firing"}}) > bool 0 or vector(0)'
        samples = [{"labels": "{}", "value": int(rule in ringing)}]
        yield {"expr": rings, "eval_time": f"{MINUTES - 1}m", "exp_samples": samples}
