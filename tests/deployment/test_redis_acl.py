"""The whole project with a user of Redis that has few permissions: those of docs/deploy.md, then fewer."""

import pytest
import requests

from tests.environment import new_directory
from tests.redis_user import CONTROL, WORKING, Restricted, permit
from tests.smtp_sink import Sink
from tests.stack import Stack

PING = "from config.celery import app; print(bool(app.control.ping(limit=1, timeout={})))"


@pytest.mark.drill
@pytest.mark.timeout(180)
def test_mail_leaves_with_every_acl_and_the_operator_is_told_what_is_missing(sink: Sink) -> None:
    valkey = Restricted(new_directory("acl") / "vk")
    with Stack(new_directory("stack"), sink, lambda _: valkey) as stack, valkey.client() as admin:

        def sends(address: str) -> None:
            stack.manage("send_test_email", address)
            arrives(address)

        def arrives(address: str) -> None:
            stack.wait_for(lambda: any(address in mail.recipients for mail in sink.received), f"the mail to {address}")

        def unanswered() -> float:
            """Return the seconds since the broker served a worker."""
            return float(requests.get(f"{stack.url}/readyz", timeout=5).json()["broker_seconds"])

        stack.start("web", "worker", "beat")
        stack.start("flower")
        assert stack.sign_up("ann@example.com").ok
        arrives("ann@example.com")
        assert stack.run(PING.format(20)) == "True\n"
        flower = f"http://127.0.0.1:{stack.flower_port}/api/workers?status=1"
        login = ("operator", "flower")
        stack.wait_for(
            lambda: True in requests.get(flower, auth=login, timeout=5).json().values(), "the worker in Flower"
        )
        assert "no issues" in stack.manage("check", "--deploy", "--tag", "postcommit")
        assert valkey.refused() == []

        permit(admin, *WORKING)
        stack.stop("worker")
        stack.start("worker")
        sends("bob@example.com")
        assert "what remote control and Flower need" in stack.log("worker")
        assert unanswered() < 4

        permit(admin, *WORKING, *CONTROL, "-brpop")
        stack.wait_for(lambda: "Add to its ACL: +brpop" in stack.log("worker"), "the worker to name the rule")
        sends("eve@example.com")
        stack.wait_for(lambda: unanswered() > 4, "the workers to report it")
        log = stack.log("worker")

        permit(admin, *WORKING, *CONTROL)
        stack.wait_for(lambda: stack.run(PING.format(1)) == "True\n", "the worker to connect", seconds=60)

    assert log.count("Traceback") <= 1  # from the moment when a permission was taken away
    assert len(log.splitlines()) < 150
