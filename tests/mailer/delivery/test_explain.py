"""Each cause of waiting has its sentence: what it is, since when, until when, and what to do."""

import re
import uuid
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import reserve
from mailer.delivery.claim import LEASE
from mailer.delivery.explain import Explanation, Situation, explain, look, stuck
from mailer.delivery.heartbeat import heartbeat
from mailer.models import WAITING, Circuit, Message, Queue, State, Worker
from tests.mailer.kinds import Plain, Receipt
from tests.mailer.worker import another_host, claim_row, deliver, die
from tests.smtp_sink import CUT, Sink

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
ME, GHOST = uuid.uuid4(), uuid.uuid4()


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def worker(host: str = "web-1", *queues: str) -> Worker:
    return Worker(id=ME, host=host, pid=42, queues=list(queues or Queue.values), seen_at=NOON)


def circuit(host: str = "", until: float = 30, transport: str = "transport", **fields: Any) -> Circuit:
    said = {"paused_since": at(-90), "reason": "421 4.3.2 closed."} | fields
    return Circuit(transport=transport, host=host, paused_until=at(until), **said)


def message(**fields: Any) -> Message:
    return Message(**{"kind": "tests.Plain", "first_due_at": at(-1), "due_at": at(-1)} | fields)


def situation(
    workers: Mapping[str, Worker] | None = None,
    circuits: tuple[Circuit, ...] = (),
    rates: Mapping[str, float] | None = None,
    last_seen: datetime | None = NOON,
) -> Situation:
    alive = {str(ME): worker()} if workers is None else workers
    return Situation(NOON, alive, circuits, rates or {}, last_seen)


TABLE: dict[str, tuple[Message, Situation, Explanation]] = {
    "due": (message(), situation(), Explanation("It is due, and a worker takes it in a moment.")),
    "due later": (message(due_at=at(60)), situation(), Explanation("It was asked to be sent later.", at(60))),
    "refused for now": (
        message(state=State.RETRYING, attempts=3, reason="450 4.2.1 greylisted.", due_at=at(60)),
        situation(),
        Explanation("Attempt 3 was not accepted: 450 4.2.1 greylisted. It is tried again.", at(60)),
    ),
    "cannot be prepared": (
        message(troubled_since=at(-600), reason="could not be built: KeyError: 'x'", due_at=at(600)),
        situation(),
        Explanation(
            "Since 2026-11-27 11:50:00 UTC it could not be prepared: could not be built: KeyError: 'x'. It is tried again.",
            at(600),
        ),
    ),
    "its trouble is over for now": (
        message(troubled_since=at(-600), reason="could not be built: KeyError: 'x'"),
        situation(),
        Explanation("It is due, and a worker takes it in a moment."),
    ),
    "being prepared": (message(worker=ME), situation(), Explanation("web-1/42 has it in hand.")),
    "dropped by a dead worker": (
        message(worker=GHOST, reservations=2),
        situation(),
        Explanation(
            "2 workers died with it in hand, before it was sent. Another one takes it; after 3 it is held for a person."
        ),
    ),
    "a dead worker, once": (
        message(worker=GHOST, reservations=1),
        situation(),
        Explanation("It is due, and a worker takes it in a moment."),
    ),
    "no worker": (
        message(),
        situation({}, last_seen=at(-3600)),
        Explanation(
            "No worker is running; the last one was seen at 2026-11-27 11:00:00 UTC. Start a worker.", is_stuck=True
        ),
    ),
    "never a worker": (
        message(),
        situation({}, last_seen=None),
        Explanation("No worker is running; none was seen lately. Start a worker.", is_stuck=True),
    ),
    "no worker, and a pause that nobody would end": (
        message(),
        situation({}, (circuit(),), last_seen=None),
        Explanation("No worker is running; none was seen lately. Start a worker.", is_stuck=True),
    ),
    "no worker of its queue": (
        message(queue=Queue.CRITICAL),
        situation({str(ME): worker("web-1", "bulk", "default")}),
        Explanation(
            "No running worker serves the queue 'critical'; the running ones serve bulk, default. Start one that does.",
            is_stuck=True,
        ),
    ),
    "past its deadline": (
        message(expires_at=at(-5)),
        situation(),
        Explanation("Its deadline passed at 2026-11-27 11:59:55 UTC. A sweep settles it in a moment."),
    ),
    "kind gone": (
        message(kind="shop.Gone"),
        situation(),
        Explanation(
            "It waits for a release that has the kind 'shop.Gone'; this one has not. Deploy that release, or cancel it.",
            is_stuck=True,
        ),
    ),
    "field gone": (
        message(arguments={"gone": 1}, troubled_since=at(-60), due_at=at(60)),
        situation(),
        Explanation(
            "It waits for a release that has the field 'gone' of tests.Plain; this one has not. "
            "Deploy that release, or cancel it.",
            is_stuck=True,
        ),
    ),
    "transport gone": (
        message(transport="gone"),
        situation(),
        Explanation(
            "It waits for a release that has the transport 'gone'; this one has not. Deploy that release, or cancel it.",
            is_stuck=True,
        ),
    ),
    "queue gone": (
        message(queue="gone"),
        situation(),
        Explanation(
            "It waits for a release that has the queue 'gone'; this one has not. Deploy that release, or cancel it.",
            is_stuck=True,
        ),
    ),
    "paused for all": (
        message(),
        situation(circuits=(circuit(),)),
        Explanation(
            "The transport 'transport' cannot be used since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed. It is tried again.",
            at(30),
        ),
    ),
    "paused from its only host": (
        message(),
        situation(circuits=(circuit("web-1"), circuit("web-9"))),
        Explanation(
            "The transport 'transport' cannot be used from web-1 since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed. "
            "It is tried again.",
            at(30),
        ),
    ),
    "paused from another host": (
        message(),
        situation(circuits=(circuit("web-9"),)),
        Explanation("It is due, and a worker takes it in a moment."),
    ),
    "paused from the host that serves its queue": (
        message(queue=Queue.BULK),
        situation({"1": worker("web-1", "default"), "2": worker("web-2", "bulk")}, (circuit("web-2"),)),
        Explanation(
            "The transport 'transport' cannot be used from web-2 since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed. "
            "It is tried again.",
            at(30),
        ),
    ),
    "a probe is under way": (
        message(),
        situation(circuits=(circuit(until=-3),)),
        Explanation(
            "The transport 'transport' cannot be used since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed. It is tried again.",
            NOON,
        ),
    ),
    "a person must correct it": (
        message(),
        situation(circuits=(circuit(reason="535 5.7.8 bad credentials", needs_person=True, until=1800),)),
        Explanation(
            "The transport 'transport' cannot be used since 2026-11-27 11:58:30 UTC: 535 5.7.8 bad credentials. "
            "A person must correct its account or configuration; it is tried again.",
            at(1800),
            is_stuck=True,
        ),
    ),
    "the server is slow": (
        message(due_at=at(-40)),
        situation(rates={"transport": 0.4567}),
        Explanation(
            "It has been due since 2026-11-27 11:59:20 UTC, and waits for its turn: "
            "the server takes about 0.46 messages a second."
        ),
    ),
    "busy": (
        message(due_at=at(-40)),
        situation(),
        Explanation(
            "It has been due since 2026-11-27 11:59:20 UTC. The workers of its queue (1) are busy with messages before it."
        ),
    ),
    "being sent": (
        message(state=State.SENDING, worker=ME, claimed_until=at(-10) + LEASE),
        situation(),
        Explanation(
            "web-1/42 has been sending it since 2026-11-27 11:59:50 UTC. A server may take 10 minutes to answer."
        ),
    ),
    "its worker died": (
        message(state=State.SENDING, worker=GHOST, claimed_until=at(-10) + LEASE),
        situation(),
        Explanation(
            "Its worker, which had it since 2026-11-27 11:59:50 UTC, died or lost the database. "
            "A sweep settles it in a moment: it may have arrived."
        ),
    ),
    "every worker died": (
        message(state=State.SENDING, worker=GHOST, claimed_until=at(-10) + LEASE),
        situation({}, last_seen=None),
        Explanation("No worker is running; none was seen lately. Start a worker.", is_stuck=True),
    ),
    "its worker died, its kind is gone": (
        message(kind="shop.Gone", state=State.SENDING, worker=GHOST, claimed_until=at(-10) + LEASE),
        situation(),
        Explanation(
            "Its worker died while it sent it; it waits for a release that has the kind 'shop.Gone'; this one has not. "
            "Deploy that release, or cancel it.",
            is_stuck=True,
        ),
    ),
    "held": (
        message(state=State.HELD, reason="quarantined: 3 workers stopped while they sent it"),
        situation(),
        Explanation(
            "Held: quarantined: 3 workers stopped while they sent it. Retry it, cancel it or mark it as delivered.",
            is_stuck=True,
        ),
    ),
    "sent": (message(state=State.SENT), situation(), Explanation("Sent.")),
    "failed": (
        message(state=State.FAILED, reason="refused for good: 550 5.1.1 no such user"),
        situation(),
        Explanation("Failed: refused for good: 550 5.1.1 no such user."),
    ),
}


@pytest.mark.parametrize("cause", TABLE)
def test_each_cause_has_its_sentence(cause: str) -> None:
    row, given, expected = TABLE[cause]

    assert explain(row, given) == expected


def test_a_sentence_can_be_printed_with_its_time() -> None:
    assert str(explain(message(due_at=at(60)), situation())) == (
        "It was asked to be sent later. Next: 2026-11-27 12:01:00 UTC."
    )
    assert str(explain(message(), situation())) == "It is due, and a worker takes it in a moment."


@pytest.mark.parametrize(
    ("learnt", "who"),
    [
        (None, "POSTCOMMIT_RATE_PER_SECOND is 2."),
        (9.0, "POSTCOMMIT_RATE_PER_SECOND is 2."),
        (1.0, "the server takes about 1 messages a second."),
    ],
)
def test_the_lower_one_of_two_rates_is_named(settings: Settings, learnt: float | None, who: str) -> None:
    settings.POSTCOMMIT = {"RATE_PER_SECOND": "2"}

    said = explain(message(due_at=at(-40)), situation(rates={"transport": learnt} if learnt else {}))

    assert said.sentence.endswith(who)


def test_a_fallback_that_works_is_no_pause(settings: Settings) -> None:
    settings.MAILERS = settings.MAILERS | {"fallback": settings.MAILERS["transport"]}
    both = (circuit(), circuit(transport="fallback", until=10))

    assert "takes it in a moment" in explain(message(), situation(circuits=both[:1])).sentence
    first = explain(message(), situation(circuits=both))
    assert ("'fallback'" in first.sentence, first.until) == (True, at(10))
    assert "'transport'" in explain(message(transport="transport"), situation(circuits=both)).sentence


moments = st.integers(-10_000, 10_000).map(at)
rows = st.builds(
    message,
    state=st.sampled_from(State.values),
    kind=st.sampled_from(["tests.Plain", "shop.Gone"]),
    queue=st.sampled_from([*Queue.values, "gone"]),
    transport=st.sampled_from(["", "transport", "gone"]),
    arguments=st.sampled_from([{}, {"account": 1}, {"gone": 1}]),
    attempts=st.integers(0, 3),
    reservations=st.integers(0, 4),
    reason=st.text(max_size=20),
    worker=st.sampled_from([None, ME, GHOST]),
    due_at=moments,
    expires_at=st.none() | moments,
    troubled_since=st.none() | moments,
    claimed_until=st.none() | moments,
)
circuits = st.builds(
    circuit,
    host=st.sampled_from(["", "web-1", "web-9"]),
    until=st.integers(-100, 100),
    transport=st.sampled_from(["transport", "fallback"]),
    paused_since=st.none() | moments,
    needs_person=st.booleans(),
)
situations = st.builds(
    situation,
    st.sampled_from([{}, {str(ME): worker()}, {str(ME): worker("web-1", "bulk")}]),
    st.lists(circuits, max_size=3, unique_by=lambda each: (each.transport, each.host)).map(tuple),
    st.sampled_from([{}, {"transport": 0.1}]),
    st.none() | moments,
)


@given(row=rows, given_=situations)
def test_every_row_has_a_sentence_and_no_time_in_the_past(row: Message, given_: Situation) -> None:
    explanation = explain(row, given_)

    assert re.fullmatch(r"[A-Z0-9w].*\.", explanation.sentence, re.DOTALL)
    assert ".." not in explanation.sentence.replace(row.reason, "")
    assert explanation.until is None or explanation.until >= NOON
    assert not (explanation.is_stuck and row.state not in (*WAITING, State.HELD, State.SENDING))
    if not given_.workers and row.state in WAITING and row.due_at <= NOON:
        assert explanation.is_stuck


# What is really in the rows.


def now(row: Message) -> str:
    row.refresh_from_db()
    return explain(row, look()).sentence


@pytest.mark.django_db
def test_the_sentences_of_real_rows(user: User, smtp: Sink) -> None:
    row = outbox.enqueue(Receipt(user))
    assert now(row) == "No worker is running; none was seen lately. Start a worker."

    another_host("web-1")
    heartbeat.queues = ["default"]
    heartbeat.beat()
    assert now(row) == "It is due, and a worker takes it in a moment."

    smtp.script.once["CONNECT"] = deque([CUT])
    deliver(row)
    assert now(row).startswith("The transport 'transport' cannot be used from web-1 since 20")
    Circuit.objects.all().delete()

    smtp.script.once["RCPT"] = deque(["450 4.2.1 greylisted"])
    deliver(row)
    assert now(row) == "Attempt 1 was not accepted: 450 4.2.1 greylisted. It is tried again."

    Message.objects.update(due_at=Now())
    assert reserve.reserve(row.pk)
    assert now(row).endswith("has it in hand.")

    claim_row(row)
    assert "has been sending it since 20" in now(row)

    die()
    assert now(row).startswith("No worker is running; the last one was seen at 20")


@pytest.mark.django_db
def test_what_is_stuck_is_counted_by_its_sentence(user: User) -> None:
    heartbeat.queues = ["default"]
    heartbeat.beat()
    later = Now() + timedelta(hours=1)
    changes: list[dict[str, Any]] = [
        {"kind": "shop.Gone"},
        {"kind": "shop.Gone", "troubled_since": Now(), "due_at": later},
        *[{"queue": "bulk"}] * 3,
        {"queue": "bulk", "due_at": later},
        {},
    ]
    for each in changes:
        Message.objects.filter(pk=outbox.enqueue(Plain(user)).pk).update(**each)

    found = stuck(look(), Message.objects.all())

    assert [(sentence.partition("'")[2].partition("'")[0], number) for sentence, number in found.items()] == [
        ("bulk", 3),
        ("shop.Gone", 2),
    ]
