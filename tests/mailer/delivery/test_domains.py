"""The messages that are sent to one domain at a time, over all workers."""

import threading
import time
from collections import deque
from functools import partial
from itertools import accumulate

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import domains, explain, pipeline, steps
from mailer.delivery.circuit import Transport
from mailer.delivery.claim import claim
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.pulse import look
from mailer.delivery.reserve import reserve
from mailer.models import DeliveryAttempt, Message, State, Taken
from mailer.transports import connections
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.mailer.worker import claim_row, deliver, make_due, prepare
from tests.smtp_sink import SLOW, Sink

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def two_at_a_time(smtp: Sink, settings: Settings) -> Sink:
    """A transport that sends two messages to gmail.com at a time."""
    settings.MAILERS = {**settings.MAILERS, "transport": email_url(f"{smtp.url}/?domains=gmail.com:2")}
    return smtp


def enqueue(number: int, domain: str) -> list[Message]:
    users = [User.objects.create(email=f"ann{each}-{time.monotonic_ns()}@{domain}") for each in range(number)]
    return [outbox.enqueue(Plain(user)) for user in users]


@pytest.mark.parametrize(
    ("recipient", "place"),
    [
        ("ann@gmail.com", ("gmail.com", 2)),
        ("ann@GoogleMail.com", ("gmail.com", 2)),
        ("ann@hotmail.com", ("outlook.com", 20)),
        ("ann@aol.com", ("yahoo.com", 20)),
        ("ann@me.com", ("icloud.com", 20)),
        ("ann@example.com", None),
        ("ann@notgmail.com", None),
    ],
)
def test_a_provider_has_one_limit_for_all_of_its_domains(
    two_at_a_time: Sink, recipient: str, place: tuple[str, int] | None
) -> None:
    assert domains.place_for("transport", recipient) == (domains.Place(*place) if place else None)


def test_a_transport_without_such_limits_has_none(smtp: Sink) -> None:
    assert domains.place_for("transport", "ann@gmail.com") is None


def test_a_message_to_a_full_domain_waits_a_moment_and_others_go_on(two_at_a_time: Sink) -> None:
    heartbeat.queues = ["default"]
    for message in enqueue(2, "googlemail.com"):
        claim_row(message)
    [full], others = enqueue(1, "gmail.com"), enqueue(2, "example.com")

    deliver(full)
    assert str(explain.explain(full, look())) == (
        "It waits for its turn: 2 messages are being sent to gmail.com, which is the limit."
    )
    make_due(full)
    assert [deliver(other).state for other in others] == [State.SENT] * 2
    assert pipeline.deliver_due(["default"], seconds=0.5) == 1

    full.refresh_from_db()
    assert (full.state, full.attempts, full.worker, full.reason, full.troubled_since) == (
        State.QUEUED,
        0,
        None,
        "",
        None,
    )
    Message.objects.filter(state=State.SENDING).update(state=State.SENT)
    assert deliver(make_due(full)).state == State.SENT


def test_a_worker_stays_for_a_message_that_is_put_off(two_at_a_time: Sink) -> None:
    first, _ = [claim_row(message) for message in enqueue(2, "gmail.com")]
    [full] = enqueue(1, "gmail.com")

    def settle() -> float:
        time.sleep(0.3)
        Message.objects.filter(pk=first.pk).update(state=State.SENT)
        return 0.0

    def work() -> float:
        began = time.monotonic()
        pipeline.deliver_due(["default"], seconds=4)
        connections.close_all()
        return time.monotonic() - began

    took, _ = at_once([settle, work])

    full.refresh_from_db()
    assert full.state == State.SENT
    assert max(took) < 3


def test_workers_that_claim_at_once_never_exceed_the_limit(two_at_a_time: Sink) -> None:
    ready = [(reserve(message.pk), prepare(message)) for message in enqueue(8, "gmail.com")]
    together = threading.Barrier(len(ready))

    def work(reserved: object, mail: steps.Ready) -> object:
        together.wait()
        return claim(reserved.message, mail, Transport("transport"), Taken.TASK)  # type: ignore[attr-defined]

    results, failures = at_once([partial(work, *each) for each in ready])

    assert not failures
    assert Message.objects.filter(state=State.SENDING).count() == 2
    assert sorted(type(result).__name__ for result in results) == ["Postponed"] * 6 + ["Ready"] * 2


def most_at_once(domain: str) -> int:
    """Return the highest number of attempts that were under way at the same time."""
    attempts = DeliveryAttempt.objects.filter(message__recipient__endswith=domain)
    moments = [(moment, by) for a in attempts for moment, by in ((a.started_at, 1), (a.finished_at, -1)) if moment]
    return max(accumulate(by for _, by in sorted(moments)))


def test_a_backlog_for_one_domain_is_delivered_by_several_threads_within_the_limit(two_at_a_time: Sink) -> None:
    enqueue(9, "gmail.com")
    enqueue(3, "example.com")
    two_at_a_time.script.once["BODY"] = deque([SLOW, SLOW])

    def work() -> None:
        pipeline.deliver_due(["default"], seconds=6)
        connections.close_all()

    at_once([work] * 4)

    assert set(Message.objects.values_list("state", flat=True)) == {State.SENT}
    assert most_at_once("gmail.com") == 2


def test_only_a_domain_with_a_limit_costs_statements(two_at_a_time: Sink) -> None:
    [usual], [limited] = enqueue(1, "example.com"), enqueue(1, "gmail.com")
    heartbeat.beat()
    costs = []
    for message in (usual, limited):
        with CaptureQueriesContext(connection) as captured:
            pipeline.deliver(message.pk)
        costs.append(len([query for query in captured.captured_queries if query["sql"] not in ("BEGIN", "COMMIT")]))

    assert costs == [4, 4 + 3]


def test_a_lock_that_another_worker_does_not_give_up_stops_nobody(
    two_at_a_time: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domains, "TRIES", 3)
    [message] = enqueue(1, "gmail.com")
    taken, done = threading.Event(), threading.Event()

    def stand_still() -> None:
        with domains.turn_at(domains.Place("gmail.com", 2)):
            taken.set()
            done.wait(5)

    def work() -> str:
        taken.wait(5)
        try:
            return pipeline.deliver(message.pk)
        finally:
            done.set()
            connections.close_all()

    results, failures = at_once([stand_still, work])

    assert not failures
    assert "waits: 2 messages are being sent to gmail.com, which is the limit" in results
    assert Message.objects.filter(pk=message.pk, state=State.QUEUED, worker=None, due_at__gt=Now()).exists()
