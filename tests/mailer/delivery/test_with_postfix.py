"""The worker against a real Postfix, whose refusals are true and yet mean something else than they say.

Rows 35 to 40 of the table of faults: limits on rate, recipients and connections; refusals of the whole server that are said
about each recipient; a full disk and dead filters; one bad mail beside good ones.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.environment import new_directory
from tests.postfix import Postfix
from tests.smtp_sink import Sink
from tests.stack import Process, Stack

pytestmark = [
    pytest.mark.drill,
    pytest.mark.timeout(120),  # on a busy machine the first installation takes half a minute to start
]
LONG = pytest.mark.faults
"""Of tests that are alike, one or two run in `make drills`, and all of them in `make faults`."""

SEND = """
import json, os
from django.core.mail import EmailMessage
from django.db import transaction

with transaction.atomic():
    for sender, recipients in json.loads(os.environ["MAILS"]):
        EmailMessage("A test", "text", sender, recipients).send()
"""
SENDER = "shop@shop.example"
NOBODY = "inet:127.0.0.1:1"
"""No server listens here."""

SHORT_PAUSES = {"POSTCOMMIT_BACKOFF_BASE": "0.05", "POSTCOMMIT_BACKOFF_MAX": "0.2"}
"""Dozens of attempts in a few seconds."""
PATIENT = {"POSTCOMMIT_SMTP_TIMEOUT": "15"}
"""As shipped: Postfix takes seconds to answer a client that made errors."""
LONG_PAUSES = {"POSTCOMMIT_BACKOFF_BASE": "60"}
"""A mail that waits for a retry is late."""
A_WHILE = 2.5
"""Seconds in which a message would be tried more than ten times, if nothing but its own pauses held it back."""

WAITING = {"queued", "retrying", "sending"}


class Site:
    """A complete installation whose transport is a Postfix. Both serve all tests; each test has settings and a worker."""

    def __init__(self, stack: Stack, server: Postfix) -> None:
        self.stack, self.server = stack, server
        self.worker = "worker-0"

    def set_up(self, environment: dict[str, str], **settings: str) -> None:
        """Begin a test with these variables of the worker and these lines of main.cf."""
        self.server.configure(**settings)
        self.worker = f"worker-{int(self.worker.partition('-')[2]) + 1}"
        self.stack.options[self.worker] = Process(environment=environment)

    def forget(self) -> None:
        """Kill the worker, and remove all that it did."""
        self.stack.kill(self.worker)
        self.stack.sql("UPDATE mailer_message SET state = 'cancelled' WHERE state <> 'sent'")
        self.stack.forget()
        self.server.forget()

    def work(self, **options: Any) -> None:
        """Start the worker."""
        self.stack.options[self.worker] = replace(self.stack.options[self.worker], **options)
        self.stack.start(self.worker)

    def send(self, *mails: Sequence[str], sender: str = SENDER) -> None:
        """Commit one mail for each sequence of recipients."""
        self.stack.run(SEND, MAILS=json.dumps([(sender, recipients) for recipients in mails]))

    def states(self) -> Counter[str]:
        rows = self.stack.sql("SELECT state, count(*) AS n FROM mailer_message GROUP BY state")
        return Counter({row["state"]: row["n"] for row in rows})

    def refused_attempts(self) -> int:
        query = "SELECT count(*) AS n FROM mailer_deliveryattempt WHERE outcome NOT IN ('accepted', 'pending')"
        return int(self.stack.sql(query)[0]["n"])

    def suppressions(self) -> list[dict[str, Any]]:
        return self.stack.sql("SELECT address, reason FROM mailer_suppression")

    def pauses(self) -> list[dict[str, Any]]:
        """Return the circuits that are open."""
        return self.stack.sql("SELECT * FROM mailer_circuit WHERE paused_until IS NOT NULL")

    def probe_now(self) -> None:
        """Do what the admin's action does."""
        self.stack.sql("UPDATE mailer_circuit SET paused_until = now() WHERE paused_until IS NOT NULL")

    def was_paused(self) -> bool:
        return "transport paused" in self.stack.log(self.worker)

    def wait_until_all_are_sent(self, *, seconds: float) -> None:
        """Wait until every message is sent. Fails at once if one has failed."""

        def arrived() -> bool:
            states = self.states()
            assert not states["failed"], self.failures()
            return set(states) == {"sent"}

        self.stack.wait_for(arrived, "every message to be sent", seconds=seconds)

    def wait_for_delivery(self, *recipients: str, seconds: float = 15) -> None:
        """Wait until each of these recipients, and no other, got exactly one mail."""

        def arrived() -> bool:
            return {recipient for recipient, _ in self.server.delivered} >= set(recipients)

        self.stack.wait_for(arrived, "the mail to arrive", seconds=seconds)
        assert self.server.delivered.total() == len(recipients)
        assert {recipient for recipient, _ in self.server.delivered} == set(recipients)

    def failures(self) -> list[dict[str, Any]]:
        """Return why messages failed, for the error of a test."""
        return self.stack.sql(
            "SELECT reason, attempts, count(*) FROM mailer_message WHERE state = 'failed' GROUP BY reason, attempts"
        )


Start = Callable[..., Site]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with (
        Sink() as unused,
        Postfix(new_directory("postfix")) as server,
        Stack(new_directory("stack"), unused, EMAIL_URL=server.url, **PATIENT) as stack,
    ):
        stack.start("beat")
        yield Site(stack, server)


@pytest.fixture
def start(site: Site) -> Iterator[Start]:
    """Prepare the site for a test: variables of its worker, which does not run yet, and settings of Postfix."""

    def start(environment: dict[str, str] | None = None, **settings: str) -> Site:
        site.set_up(environment or {}, **settings)
        return site

    yield start
    site.forget()


def people(number: int) -> list[tuple[str]]:
    """Return recipients of as many domains."""
    return [(f"ann@example{n}.com",) for n in range(number)]


@pytest.mark.parametrize(
    ("unit", "seconds"), [(5, 45), pytest.param(20, 150, marks=[pytest.mark.faults, pytest.mark.timeout(240)])]
)
@pytest.mark.parametrize(
    "limit", ["smtpd_client_message_rate_limit", pytest.param("smtpd_client_recipient_rate_limit", marks=LONG)]
)
def test_a_server_that_takes_twenty_mails_per_time_unit(start: Start, limit: str, unit: int, seconds: float) -> None:
    """450 4.7.1 at MAIL or at RCPT: the transport slows down, and no message pays for it."""
    site = start({}, **{limit: "20"}, anvil_rate_time_unit=f"{unit}s")
    site.send(*people(60))

    site.work()

    site.wait_until_all_are_sent(seconds=seconds)
    site.wait_for_delivery(*(one for (one,) in people(60)))
    assert site.refused_attempts() < 60


def test_a_server_that_takes_three_recipients_a_transaction(start: Start) -> None:
    """452 4.5.3: the rest follows at once in further transactions (RFC 5321, 4.5.3.1.10)."""
    site = start(LONG_PAUSES, smtpd_recipient_limit="3")
    everybody = [one for (one,) in people(40)]
    site.send(everybody)

    site.work()

    site.wait_until_all_are_sent(seconds=15)
    site.wait_for_delivery(*everybody)
    assert not site.was_paused()


def test_a_server_that_allows_four_connections(start: Start) -> None:
    """421 at the greeting while other connections work: fewer connections, and no pause.

    Each mail takes the server a second, so that all 16 threads want a connection: four of them need ten seconds.
    """
    slow = "sleep 1, permit_mynetworks, reject"
    site = start(LONG_PAUSES, smtpd_client_connection_count_limit="4", smtpd_recipient_restrictions=slow)
    site.send(*people(40))

    site.work(pool="threads", concurrency=16)

    site.wait_until_all_are_sent(seconds=25)
    site.wait_for_delivery(*(one for (one,) in people(40)))
    assert not site.was_paused()
    assert "Connection concurrency limit exceeded" in site.server.log, "the limit was not met"


DENIED = {"mynetworks": "192.0.2.0/24", "smtpd_relay_restrictions": "permit_mynetworks,reject_unauth_destination"}
DEFERRED = {"mynetworks": "192.0.2.0/24", "smtpd_relay_restrictions": "permit_mynetworks,defer_unauth_destination"}
"""Debian's main.cf, on a server that does not know this client."""
POLICY = {"smtpd_recipient_restrictions": f"check_policy_service {NOBODY}", "smtpd_policy_service_try_limit": "1"}


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param({"smtpd_client_restrictions": "reject"}, id="client-rejected"),
        pytest.param(
            {"smtpd_recipient_restrictions": "permit_sasl_authenticated,reject"}, id="login-missing", marks=LONG
        ),
        pytest.param(DENIED, id="relaying-denied", marks=LONG),
        pytest.param(
            {"smtpd_sender_restrictions": "check_sender_access static:{553 5.7.1 not owned by user}"},
            id="sender-not-owned",
        ),
        pytest.param({"queue_minfree": "999999999999999"}, id="disk-full"),
        pytest.param({"smtpd_milters": NOBODY}, id="dead-milter", marks=LONG),
        pytest.param(POLICY, id="dead-policy-service", marks=LONG),
        pytest.param(DEFERRED, id="relaying-deferred", marks=LONG),
    ],
)
def test_a_server_that_refuses_everything(start: Start, lines: dict[str, str]) -> None:
    """554, 553 5.7.1, 454 4.7.1 at RCPT for several domains, 452 4.3.1, 451 4.7.1, 451 4.3.5: these are the transport's.

    It is paused and says why. The mails wait, and none is lost, however long that lasts. Once a person has corrected the
    server and probes it, they arrive. Postfix lets connections that are open keep the settings from before the correction, so
    neither the probe nor a mail after it may be judged by what such a connection still says.
    """
    site = start(SHORT_PAUSES, **lines)
    site.send(*people(10))
    site.work()

    site.stack.wait_for(lambda: site.pauses() or site.states()["failed"], "the pause")
    time.sleep(A_WHILE)
    assert set(site.states()) <= WAITING, site.failures()
    said = site.server.refusals[0].split()[2]  # the enhanced status
    assert any(said in pause["reason"] for pause in site.pauses()), site.pauses()

    site.server.configure()
    site.probe_now()

    site.wait_until_all_are_sent(seconds=15)
    site.wait_for_delivery(*(one for (one,) in people(10)))


@pytest.mark.parametrize("delayed", [pytest.param("yes", marks=LONG), "no"])
def test_a_poison_mail_beside_good_ones(start: Start, delayed: str) -> None:
    """553 5.7.1 for one sender, at RCPT or at MAIL: the good mails arrive at once, and this one fails."""
    poison = "check_sender_access inline:{{poison@shop.example=553 5.7.1 not owned by user}}"
    site = start({"POSTCOMMIT_BACKOFF_BASE": "10"}, smtpd_sender_restrictions=poison, smtpd_delay_reject=delayed)
    site.send(["ann@example.com"], sender="poison@shop.example")
    site.send(*people(15))

    site.work()

    site.wait_for_delivery(*(one for (one,) in people(15)), seconds=8)
    site.stack.wait_for(lambda: site.states() == {"sent": 15, "failed": 1}, "the poison mail to fail", seconds=15)
    assert [row["address"] for row in site.suppressions()] == []


HERE = {
    "mydestination": "here.example",
    "local_recipient_maps": "inline:{ann@here.example=known, bob@here.example=known}",
    "smtpd_hard_error_limit": "2",
}
"""It hangs up after two unknown recipients: 421 4.7.0 too many errors."""


def test_unknown_recipients_beside_known_ones_of_one_mail(start: Start) -> None:
    """What the server said about single recipients before it hung up is kept; the others get their mail."""
    site = start({"POSTCOMMIT_BACKOFF_BASE": "1"}, **HERE)
    unknown = [f"unknown-{n}@here.example" for n in range(5)]
    site.send([*unknown, "ann@here.example", "bob@here.example"])

    site.work()

    site.wait_for_delivery("ann@here.example", "bob@here.example", seconds=10)
    site.stack.wait_for(lambda: site.states().keys() <= {"sent", "failed"}, "the outcome")
    assert {row["address"] for row in site.suppressions()} == set(unknown)


def test_mails_to_unknown_recipients_beside_good_ones(start: Start) -> None:
    """The server hangs up on good mails because of those before them, and they are sent again at once."""
    site = start({"POSTCOMMIT_BACKOFF_BASE": "10"}, **HERE)
    unknown = [f"unknown-{n}@here.example" for n in range(6)]
    good = people(15)
    site.send(*((one,) for one in unknown[:3]), *good[:8], *((one,) for one in unknown[3:]), *good[8:])

    site.work()

    site.wait_for_delivery(*(one for (one,) in good), seconds=8)
    site.stack.wait_for(lambda: site.states() == {"sent": 15, "failed": 6}, "the outcomes", seconds=15)
    assert {row["address"] for row in site.suppressions()} == set(unknown)
