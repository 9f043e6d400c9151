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
from pytest_django import DjangoAssertNumQueries, Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import reserve
from mailer.delivery.claim import LEASE
from mailer.delivery.explain import Explanation, Facts, Level, explain, facts, stuck
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.pulse import Action, Pulse, look
from mailer.models import WAITING, Circuit, DeliveryAttempt, Message, Outcome, Queue, State, Suppression, Worker
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


def pulse(
    workers: Mapping[str, Worker] | None = None,
    circuits: tuple[Circuit, ...] = (),
    rates: Mapping[str, float] | None = None,
    worker_at: datetime | None = NOON,
    **other: Any,
) -> Pulse:
    alive = {str(ME): worker()} if workers is None else workers
    lately = {"swept_at": NOON, "broker_at": NOON, "beat_at": NOON} | other
    return Pulse(NOON, alive, circuits, rates or {}, worker_at, **lately)


NOT_RUNNING: dict[str, Any] = {"is_stuck": True, "action": Action.DELIVER}
GONE: dict[str, Any] = {"is_stuck": True, "action": Action.CANCEL}


def stopped(sentence: str, until: datetime) -> Explanation:
    return Explanation(sentence, until, action=Action.PROBE, target="None")


TABLE: dict[str, tuple[Message, Pulse, Explanation]] = {
    "due": (message(), pulse(), Explanation("It is due, and a worker takes it in a moment.")),
    "due later": (message(due_at=at(60)), pulse(), Explanation("It was asked to be sent later.", at(60))),
    "refused for now": (
        message(state=State.RETRYING, attempts=3, reason="450 4.2.1 greylisted.", due_at=at(60)),
        pulse(),
        Explanation("Attempt 3 was not accepted: 450 4.2.1 greylisted. It is tried again.", at(60)),
    ),
    "cannot be prepared": (
        message(troubled_since=at(-600), reason="could not be built: KeyError: 'x'", due_at=at(600)),
        pulse(),
        Explanation(
            "Since 2026-11-27 11:50:00 UTC it could not be prepared: could not be built: KeyError: 'x'. It is tried again.",
            at(600),
        ),
    ),
    "its trouble is over for now": (
        message(troubled_since=at(-600), reason="could not be built: KeyError: 'x'"),
        pulse(),
        Explanation("It is due, and a worker takes it in a moment."),
    ),
    "being prepared": (message(worker=ME), pulse(), Explanation("web-1/42 has it in hand.")),
    "dropped by a dead worker": (
        message(worker=GHOST, reservations=2),
        pulse(),
        Explanation(
            "2 workers died with it in hand, before it was sent. Another one takes it; after 3 it is held for a person."
        ),
    ),
    "a dead worker, once": (
        message(worker=GHOST, reservations=1),
        pulse(),
        Explanation("It is due, and a worker takes it in a moment."),
    ),
    "no worker": (
        message(),
        pulse({}, worker_at=at(-3600)),
        Explanation(
            "No worker is running; the last one was seen at 2026-11-27 11:00:00 UTC. Start a worker.", **NOT_RUNNING
        ),
    ),
    "never a worker": (
        message(),
        pulse({}, worker_at=None),
        Explanation("No worker is running; none was seen lately. Start a worker.", **NOT_RUNNING),
    ),
    "no worker, and a pause that nobody would end": (
        message(),
        pulse({}, (circuit(),), worker_at=None),
        Explanation("No worker is running; none was seen lately. Start a worker.", **NOT_RUNNING),
    ),
    "no worker of its queue": (
        message(queue=Queue.CRITICAL),
        pulse({str(ME): worker("web-1", "bulk", "default")}),
        Explanation(
            "No running worker serves the queue 'critical'; the running ones serve bulk, default. Start one that does.",
            **NOT_RUNNING,
        ),
    ),
    "past its deadline": (
        message(expires_at=at(-5)),
        pulse(),
        Explanation("Its deadline passed at 2026-11-27 11:59:55 UTC. A sweep settles it in a moment."),
    ),
    "kind gone": (
        message(kind="shop.Gone"),
        pulse(),
        Explanation(
            "It waits for a release that has the kind 'shop.Gone'; this one has not. Deploy that release, or cancel it.",
            **GONE,
        ),
    ),
    "field gone": (
        message(arguments={"gone": 1}, troubled_since=at(-60), due_at=at(60)),
        pulse(),
        Explanation(
            "It waits for a release that has the field 'gone' of tests.Plain; this one has not. "
            "Deploy that release, or cancel it.",
            **GONE,
        ),
    ),
    "transport gone": (
        message(transport="gone"),
        pulse(),
        Explanation(
            "It waits for a release that has the transport 'gone'; this one has not. Deploy that release, or cancel it.",
            **GONE,
        ),
    ),
    "queue gone": (
        message(queue="gone"),
        pulse(),
        Explanation(
            "It waits for a release that has the queue 'gone'; this one has not. Deploy that release, or cancel it.",
            **GONE,
        ),
    ),
    "paused for all": (
        message(),
        pulse(circuits=(circuit(),)),
        stopped(
            "The transport 'transport' cannot be used since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed.",
            at(30),
        ),
    ),
    "paused from its only host": (
        message(),
        pulse(circuits=(circuit("web-1"), circuit("web-9"))),
        stopped(
            "The transport 'transport' cannot be used from web-1 since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed.",
            at(30),
        ),
    ),
    "paused from another host": (
        message(),
        pulse(circuits=(circuit("web-9"),)),
        Explanation("It is due, and a worker takes it in a moment."),
    ),
    "paused from the host that serves its queue": (
        message(queue=Queue.BULK),
        pulse({"1": worker("web-1", "default"), "2": worker("web-2", "bulk")}, (circuit("web-2"),)),
        stopped(
            "The transport 'transport' cannot be used from web-2 since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed.",
            at(30),
        ),
    ),
    "a probe is under way": (
        message(),
        pulse(circuits=(circuit(until=-3),)),
        stopped(
            "The transport 'transport' cannot be used since 2026-11-27 11:58:30 UTC: 421 4.3.2 closed.",
            NOON,
        ),
    ),
    "a person must correct it": (
        message(),
        pulse(circuits=(circuit(reason="535 5.7.8 bad credentials", needs_person=True, until=1800),)),
        Explanation(
            "The transport 'transport' cannot be used since 2026-11-27 11:58:30 UTC: 535 5.7.8 bad credentials. "
            "A person must correct its account or configuration.",
            at(1800),
            True,
            Action.PROBE,
            "None",
        ),
    ),
    "the server is slow": (
        message(due_at=at(-40)),
        pulse(rates={"transport": 0.4567}),
        Explanation(
            "It has been due since 2026-11-27 11:59:20 UTC, and waits for its turn: "
            "the server takes about 0.46 messages a second."
        ),
    ),
    "busy": (
        message(due_at=at(-40)),
        pulse(),
        Explanation(
            "It has been due since 2026-11-27 11:59:20 UTC. The workers of its queue (1) are busy with messages before it."
        ),
    ),
    "being sent": (
        message(state=State.SENDING, worker=ME, claimed_until=at(-10) + LEASE),
        pulse(),
        Explanation(
            "web-1/42 has been sending it since 2026-11-27 11:59:50 UTC. A server may take 10 minutes to answer."
        ),
    ),
    "its worker died": (
        message(state=State.SENDING, worker=GHOST, claimed_until=at(-10) + LEASE),
        pulse(),
        Explanation(
            "Its worker, which had it since 2026-11-27 11:59:50 UTC, died or lost the database. "
            "A sweep settles it in a moment: it may have arrived."
        ),
    ),
    "every worker died": (
        message(state=State.SENDING, worker=GHOST, claimed_until=at(-10) + LEASE),
        pulse({}, worker_at=None),
        Explanation("No worker is running; none was seen lately. Start a worker.", **NOT_RUNNING),
    ),
    "its worker died, its kind is gone": (
        message(kind="shop.Gone", state=State.SENDING, worker=GHOST, claimed_until=at(-10) + LEASE),
        pulse(),
        Explanation(
            "Its worker died while it sent it; it waits for a release that has the kind 'shop.Gone'; this one has not. "
            "Deploy that release, or cancel it.",
            is_stuck=True,
        ),
    ),
    "held": (
        message(state=State.HELD, reason="quarantined: 3 workers stopped while they sent it"),
        pulse(),
        Explanation(
            "Held: quarantined: 3 workers stopped while they sent it. Retry it, cancel it or mark it as delivered.",
            is_stuck=True,
            action=Action.RETRY,
            level=Level.BAD,
        ),
    ),
    "the broker is silent": (
        message(),
        pulse(broker_at=at(-60)),
        Explanation(
            "It is due. The broker has not answered since 2026-11-27 11:59:00 UTC, so a worker takes it without a task, "
            "in some seconds."
        ),
    ),
}


@pytest.mark.parametrize("cause", TABLE)
def test_each_cause_has_its_sentence(cause: str) -> None:
    row, given, expected = TABLE[cause]

    assert explain(row, given) == expected


def attempt(number: int, outcome: Outcome, code: str = "", response: str = "") -> DeliveryAttempt:
    return DeliveryAttempt(
        number=number, transport="transport", outcome=outcome, code=code, response=response, finished_at=at(-number)
    )


NO_ANSWER = attempt(1, Outcome.UNCERTAIN), attempt(2, Outcome.UNCERTAIN)
QUEUED_AS = attempt(3, Outcome.ACCEPTED, "250", "2.0.0 Ok: queued as 4XY")
UNKNOWN = Suppression(address="ann@example.com", reason="550 5.1.1 no such user", created_at=at(-3600))

ENDS: dict[str, tuple[Message, Facts, Explanation]] = {
    "accepted": (
        message(state=State.SENT),
        Facts((QUEUED_AS,)),
        Explanation(
            "Accepted at 2026-11-27 11:59:57 UTC by 'transport': 250 2.0.0 Ok: queued as 4XY.", level=Level.WELL
        ),
    ),
    "accepted after two tries without an answer": (
        message(state=State.SENT),
        Facts((*NO_ANSWER, QUEUED_AS)),
        Explanation(
            "Accepted at 2026-11-27 11:59:57 UTC by 'transport': 250 2.0.0 Ok: queued as 4XY. "
            "2 earlier tries had no answer, so there may be copies with the same Message-ID.",
            level=Level.WELL,
        ),
    ),
    "marked as delivered": (
        message(state=State.SENT, reason="marked as delivered by ann@example.com"),
        Facts(NO_ANSWER),
        Explanation("Sent: marked as delivered by ann@example.com.", level=Level.WELL),
    ),
    "refused for good": (
        message(state=State.FAILED, reason="refused for good: 554 5.7.1 spam"),
        Facts(),
        Explanation("Failed: refused for good: 554 5.7.1 spam.", action=Action.RETRY, level=Level.BAD),
    ),
    "an unknown address": (
        message(state=State.FAILED, reason="refused for good: 550 5.1.1 no such user"),
        Facts(suppression=UNKNOWN),
        Explanation(
            "Failed: refused for good: 550 5.1.1 no such user. The address gets no mail since 2026-11-27 11:00:00 UTC.",
            level=Level.BAD,
        ),
    ),
    "suppressed": (
        message(state=State.SUPPRESSED, reason="the address is suppressed: 550 5.1.1 no such user"),
        Facts(suppression=UNKNOWN),
        Explanation(
            "Not sent: the address gets no mail since 2026-11-27 11:00:00 UTC, because: 550 5.1.1 no such user.",
            level=Level.ENDED,
        ),
    ),
    "suppressed then, and not now": (
        message(state=State.SUPPRESSED, reason="the address is suppressed: 550 5.1.1 no such user"),
        Facts(),
        Explanation("Not sent: the address is suppressed: 550 5.1.1 no such user.", level=Level.ENDED),
    ),
    "cancelled": (
        message(state=State.CANCELLED, reason="cancelled by ann@example.com"),
        Facts(),
        Explanation("Not sent: cancelled by ann@example.com.", level=Level.ENDED),
    ),
    "too late": (
        message(
            state=State.EXPIRED, reason="its deadline passed before it could be sent; it waited, because: 450 later"
        ),
        Facts(),
        Explanation(
            "Not sent: its deadline passed before it could be sent; it waited, because: 450 later.", level=Level.ENDED
        ),
    ),
}


@pytest.mark.parametrize("cause", ENDS)
def test_each_end_has_its_sentence(cause: str) -> None:
    row, known, expected = ENDS[cause]

    assert explain(row, pulse(), known) == expected


def test_a_sentence_can_be_printed_with_its_time() -> None:
    assert str(explain(message(due_at=at(60)), pulse())) == (
        "It was asked to be sent later. Next: 2026-11-27 12:01:00 UTC."
    )
    assert str(explain(message(), pulse())) == "It is due, and a worker takes it in a moment."


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

    said = explain(message(due_at=at(-40)), pulse(rates={"transport": learnt} if learnt else {}))

    assert said.sentence.endswith(who)


def test_a_fallback_that_works_is_no_pause(settings: Settings) -> None:
    settings.MAILERS = settings.MAILERS | {"fallback": settings.MAILERS["transport"]}
    both = (circuit(), circuit(transport="fallback", until=10))

    assert "takes it in a moment" in explain(message(), pulse(circuits=both[:1])).sentence
    first = explain(message(), pulse(circuits=both))
    assert ("'fallback'" in first.sentence, first.until) == (True, at(10))
    assert "'transport'" in explain(message(transport="transport"), pulse(circuits=both)).sentence


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
pulses = st.builds(
    pulse,
    st.sampled_from([{}, {str(ME): worker()}, {str(ME): worker("web-1", "bulk")}]),
    st.lists(circuits, max_size=3, unique_by=lambda each: (each.transport, each.host)).map(tuple),
    st.sampled_from([{}, {"transport": 0.1}]),
    st.none() | moments,
)


@given(row=rows, given_=pulses)
def test_every_row_has_a_sentence_and_no_time_in_the_past(row: Message, given_: Pulse) -> None:
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
    heartbeat.queues, heartbeat.broker_answers = ["default"], True
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

    heartbeat.let_go(-1.0)
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


@pytest.mark.django_db
def test_the_facts_of_many_messages_take_three_queries(
    user: User, smtp: Sink, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    smtp.script.once["RCPT"] = deque(["550 5.1.1 no such user", "250 ok"])
    sent = [outbox.enqueue(Plain(user)) for _ in range(3)]
    for each in sent[:2]:
        deliver(each)
    rows = list(Message.objects.all())

    with django_assert_num_queries(3):
        known = facts(rows)

    said = {row.pk: explain(row, pulse(), known[row.pk]).sentence for row in rows}
    assert "The address gets no mail since 20" in said[sent[0].pk]
    assert said[sent[1].pk].startswith("Not sent: the address gets no mail since 20")
    assert said[sent[2].pk] == "It was asked to be sent later."
