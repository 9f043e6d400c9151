"""The main job on real processes: committed mail is sent, other mail is not, and a fault changes nothing."""

import json
import re
import time
from collections import deque
from collections.abc import Iterator

import pytest
import requests

from tests.environment import new_directory
from tests.smtp_sink import CUT, HANG, SLOW, Sink
from tests.stack import PASSWORD, Process, Stack

pytestmark = pytest.mark.timeout(130)  # begins early


@pytest.fixture(scope="module")
def installation() -> Iterator[Stack]:
    with Sink() as sink, Stack(new_directory("stack"), sink) as stack:
        yield stack


@pytest.fixture
def stack(installation: Stack) -> Iterator[Stack]:
    """Web, worker and beat, which serve all tests: one that follows a fault shows that nothing is left of it."""
    installation.start(*(name for name in ("web", "worker", "beat") if not installation.runs(name)))
    yield installation
    installation.forget()


def test_from_sign_up_to_verified_by_plain_http(stack: Stack) -> None:
    response = stack.sign_up("ann@example.com")
    assert response.url == f"{stack.url}/accounts/signup/check-inbox/"
    stack.wait_for(lambda: stack.sink.received, "the mail")

    [received] = stack.sink.received
    assert received.recipients == ["ann@example.com"]
    assert [p.get_content_type() for p in received.parsed.iter_parts()] == ["text/plain", "text/html"]
    link = received.link
    assert link in received.part("html")
    assert 'style="' in received.part("html")
    with requests.Session() as browser:
        page = browser.get(link, timeout=10)
        assert stack.sql("SELECT email_verified_at FROM accounts_user") == [{"email_verified_at": None}]
        token = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        assert page.status_code == 200
        assert "This is not the password" in browser.post(link, token, timeout=10).text  # another browser
        assert browser.post(link, token | {"password": PASSWORD}, timeout=10).status_code == 200
        assert browser.post(link, token, timeout=10).status_code == 410
    assert stack.sql("SELECT email_verified_at IS NOT NULL AS verified FROM accounts_user") == [{"verified": True}]

    stack.wait_for(lambda: stack.messages()[0]["state"] == "sent", "the outcome in the database")
    [attempt] = stack.sql("SELECT * FROM mailer_deliveryattempt")
    number = attempt["message_id"]
    assert (attempt["outcome"], attempt["code"]) == ("accepted", "250")
    code = link.rstrip("/").rpartition("/")[2]
    for name in ("web", "worker", "beat"):
        assert "ann@" not in stack.log(name)
        assert code not in stack.log(name)
    assert re.search(rf"accepted.*kind=accounts.VerifyAddress.*message_id={number}\b", stack.log("worker"))


def test_postgresql_stops_under_a_waiting_task_and_comes_back(stack: Stack) -> None:
    stack.sign_up("ann@example.com")

    stack.postgres.stop()
    time.sleep(4)  # the mail is due, and the worker looks for it
    assert stack.sink.received == []
    stack.postgres.start()

    stack.wait_for(lambda: stack.sink.received, "the mail", seconds=20)
    stack.wait_for(lambda: stack.messages()[0]["state"] == "sent", "the outcome in the database")
    assert len(stack.sink.received) == 1


def test_a_rollback_sends_nothing_and_a_commit_sends_exactly_one(stack: Stack) -> None:
    stack.run("""
from django.db import transaction
from accounts.signup import sign_up
try:
    with transaction.atomic():
        sign_up("rolled-back@example.com", "a password 1", language="en")
        raise KeyboardInterrupt
except KeyboardInterrupt:
    sign_up("committed@example.com", "a password 1", language="en")
""")
    stack.wait_for(lambda: stack.sink.received, "the mail")
    stack.wait_for(lambda: stack.messages()[0]["state"] == "sent", "the outcome in the database")

    assert [r.recipients for r in stack.sink.received] == [["committed@example.com"]]


def test_mail_of_django_takes_the_same_path(stack: Stack) -> None:
    stack.run("""
from django.core.mail import EmailMessage, send_mail
from django.db import transaction
try:
    with transaction.atomic():
        send_mail("Rolled back", "text", None, ["rolled-back@example.com"])
        raise KeyboardInterrupt
except KeyboardInterrupt:
    message = EmailMessage("Committed", "A SECRET", to=["ann@example.com", "bob@example.com"])
    message.attach("ใบเสร็จ.pdf", bytes(range(256)) * 100, "application/pdf")
    message.send()
""")
    stack.manage("sendtestemail", "cid@example.com")

    stack.wait_for(lambda: len(stack.sink.received) == 2, "the mails")
    stack.wait_for(lambda: {row["state"] for row in stack.messages()} == {"sent"}, "the outcomes in the database")
    recipients = sorted(received.recipients for received in stack.sink.received)
    assert recipients == [["ann@example.com", "bob@example.com"], ["cid@example.com"]]
    assert "SECRET" not in stack.log("worker") + stack.log("beat")


def test_a_mail_in_the_recipients_language(stack: Stack) -> None:
    stack.run('from accounts.signup import sign_up\nsign_up("th@example.com", "a password 1", language="th")')
    stack.wait_for(lambda: stack.sink.received, "the mail")

    assert re.search("[\u0e00-\u0e7f]", stack.sink.received[0].parsed["Subject"])
    assert re.search("[\u0e00-\u0e7f]", stack.sink.received[0].part("plain"))


def test_the_broker_loses_everything_and_the_mail_goes_out(stack: Stack) -> None:
    stack.run('from accounts.signup import sign_up\nsign_up("ann@example.com", "a password 1", language="en")')

    stack.valkey.stop()
    stack.valkey.forget()
    stack.valkey.start()

    stack.wait_for(lambda: stack.sink.received, "the mail", seconds=30)


def test_a_worker_dies_in_the_middle_of_a_conversation(stack: Stack) -> None:
    stack.sink.script.once["BODY"] = deque([HANG])
    stack.run('from accounts.signup import sign_up\nsign_up("ann@example.com", "a password 1", language="en")')
    stack.wait_for(lambda: stack.sink.received, "the payload")

    stack.kill("worker")
    stack.start("worker")

    stack.wait_for(lambda: len(stack.sink.received) == 2, "the copy", seconds=30)
    first, copy = (r.parsed["Message-ID"] for r in stack.sink.received)
    assert first == copy
    stack.wait_for(lambda: stack.messages()[0]["state"] == "sent", "the outcome in the database")
    outcomes = stack.sql("SELECT outcome FROM mailer_deliveryattempt ORDER BY number")
    assert [row["outcome"] for row in outcomes] == ["uncertain", "accepted"]


def test_a_refusal_for_now_is_logged_without_the_address_and_retried(stack: Stack) -> None:
    stack.sink.script.once["RCPT"] = deque(["450 4.2.1 <ann@example.com> is greylisted", CUT])
    stack.run('from accounts.signup import sign_up\nsign_up("ann@example.com", "a password 1", language="en")')
    stack.wait_for(lambda: stack.sink.received, "the mail")

    log = stack.log("worker")
    assert re.search(
        r"refused .*attempt=1 code=450 .*queue=critical text='4.2.1 <a\*\*\*@example.com> is greylisted'", log
    )
    assert re.search(r"will be tried again .*attempt=1 .*seconds=\d", log)
    assert "ann@" not in log


@pytest.mark.drill
def test_a_worker_can_be_stopped_while_the_broker_does_not_answer(stack: Stack) -> None:
    """Celery alone repeats its heartbeat until the broker takes it, and hears no signal meanwhile."""
    with stack.valkey.frozen():
        time.sleep(5)  # at least two heartbeats
        stack.stop("worker", within=40)  # Celery alone needs more than 60 s; this takes 10 to 20 s on a busy machine


def test_critical_mail_overtakes_a_backlog(stack: Stack) -> None:
    stack.kill("worker")
    stack.run("""
from mailer import outbox
from mailer.emails import TestEmail
for queue, number in (("bulk", 30), ("default", 10), ("critical", 3)):
    TestEmail.queue = queue
    for _ in range(number):
        outbox.enqueue(TestEmail(f"{queue}@example.com", "a test"))
""")
    stack.start("worker")
    stack.wait_for(lambda: len(stack.sink.received) == 43, "all mails", seconds=30)

    order = [r.recipients[0].partition("@")[0] for r in stack.sink.received]
    # Of 43: a process may be slow with its first mail, while the other one goes on.
    assert max(i for i, queue in enumerate(order) if queue == "critical") < 20
    assert order[-20:] == ["bulk"] * 20


def test_logs_are_json_lines_in_production(stack: Stack) -> None:
    stack.kill("worker")
    production = {"DEBUG": "0", "LOG_LEVEL": "INFO", "DEFAULT_FROM_EMAIL": "shop@example.com"}
    stack.options["worker-production"] = Process(environment=production)
    stack.start("worker-production")
    stack.manage("send_test_email", "ann@example.com")
    stack.wait_for(lambda: stack.sink.received, "the mail")
    stack.wait_for(lambda: "accepted" in stack.log("worker-production"), "the line")
    stack.kill("worker-production")

    lines = [json.loads(line) for line in stack.log("worker-production").splitlines() if line.startswith("{")]
    accepted = next(line for line in lines if line["event"] == "accepted")
    number = stack.messages()[0]["id"]
    expected = {"message_id": number, "kind": "mailer.TestEmail", "queue": "critical", "attempt": 1}
    assert expected.items() <= accepted.items()
    assert isinstance(accepted["ms"], int)


def test_postgresql_stops_between_the_acceptance_and_its_record(stack: Stack) -> None:
    stack.sink.script.once["BODY"] = deque([SLOW])
    stack.run('from accounts.signup import sign_up\nsign_up("ann@example.com", "a password 1", language="en")')
    stack.wait_for(lambda: stack.sink.received, "the payload")

    stack.postgres.stop()
    time.sleep(3)  # the server answers after one
    stack.postgres.start()

    stack.wait_for(lambda: stack.messages()[0]["state"] == "sent", "the outcome in the database")
    time.sleep(1)
    assert len(stack.sink.received) == 1
    assert [(c.old, c.new) for c in stack.history() if c.what == "attempt"] == [
        (None, "pending"),
        ("pending", "accepted"),
    ]
