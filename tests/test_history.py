"""The checker of histories, on histories made by hand, and the triggers that write one."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from mailer.models import SETTLED, SOURCES, DeliveryAttempt, Message, Outcome, State
from tests.history import Change, read, violations

BEGAN = datetime(2026, 11, 27, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def message(seconds: float, old: str | None, new: str, number: int, before: int | None, **fields: Any) -> Change:
    """Return a change of message 7, which was due at once and has an hour."""
    times = {"at": after(seconds), "due_at": BEGAN, "expires_at": after(3600)}
    return Change(message_id=7, what="message", old=old, new=new, number=number, before=before, **times | fields)


def attempt(seconds: float, number: int, old: str | None, new: str, **fields: Any) -> Change:
    """Return a change of an attempt, whose stored time is right."""
    times = {"at": after(seconds), "stored_at": after(seconds)}
    return Change(message_id=7, what="attempt", old=old, new=new, number=number, **times | fields)


GOOD = [
    message(0, None, "queued", 0, None),
    message(0.1, "queued", "queued", 0, 0),
    message(1, "queued", "sending", 1, 0),
    attempt(1, 1, None, "pending"),
    attempt(2, 1, "pending", "refused_for_now"),
    message(2, "sending", "retrying", 1, 1),
    message(12, "retrying", "sending", 2, 1),
    attempt(12, 2, None, "pending"),
    attempt(25, 2, "pending", "uncertain"),
    message(25, "sending", "retrying", 2, 2, alive=False),  # its worker was silent for long
    message(26, "retrying", "sending", 3, 2),
    attempt(26, 3, None, "pending"),
    attempt(26.5, 2, "uncertain", "transport_down"),  # it woke up, and had not sent anything
    attempt(27, 3, "pending", "accepted"),
    message(27, "sending", "sent", 3, 3),
    message(90, "sent", "sent", 3, 3),  # its body was erased
]


def found(history: list[Change], **limits: Any) -> list[str]:
    """Return the violations, which all name the message."""
    sentences = violations(history, **limits)
    assert all(sentence.startswith("message 7: ") for sentence in sentences)
    return [sentence.removeprefix("message 7: ") for sentence in sentences]


def test_a_good_history_has_no_violations() -> None:
    assert found(GOOD, within=timedelta(seconds=27), until=after(100)) == []
    assert violations([]) == []


def test_a_history_of_several_messages_is_checked_for_each() -> None:
    others = [replace(change, message_id=8) for change in GOOD]
    mixed = sorted([*GOOD, *others, *(replace(change, message_id=9) for change in GOOD[:8])], key=lambda c: c.at)

    assert violations(mixed) == []
    assert violations(mixed, within=timedelta(seconds=30), until=after(100)) == [
        "message 9: is still sending 100.0 s after it was due"
    ]


@pytest.mark.parametrize("state", SETTLED)
def test_a_settled_message_changes_only_by_the_table(state: State) -> None:
    for new in State:
        expected = [] if new == state or state in SOURCES[new] else [f"went from {state} to {new}"]
        counts = 1 if new == State.SENDING else 0
        assert found([message(1, state, new, 1 + counts, 1)]) == expected


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([message(1, "cancelled", "sending", 1, 0)], "went from cancelled to sending"),
        (
            [message(1, "queued", "sending", 1, 0), message(2, "sending", "sending", 2, 1)],
            "claimed for attempt 2 while attempt 1 was under way",
        ),
        ([message(1, "queued", "sending", 0, 0)], "its attempts went from 0 to 0 as it became sending"),
        ([message(1, "queued", "sending", 2, 0)], "its attempts went from 0 to 2 as it became sending"),
        ([message(1, "sending", "retrying", 0, 1)], "its attempts went from 1 to 0 as it became retrying"),
        ([message(1, "sent", "sent", 2, 1)], "its attempts went from 1 to 2 as it became sent"),
        ([message(1, "queued", "sending", 1, 0, due_at=after(60))], "claimed 59.0 s before it was due"),
        ([message(3604, "queued", "sending", 1, 0)], "claimed 4.0 s after its deadline"),
        ([message(600, "retrying", "expired", 1, 1)], "expired 3000.0 s before its deadline"),
        (
            [attempt(1, 1, None, "pending"), attempt(2, 2, None, "pending")],
            "attempt 2 began while attempt 1 was under way",
        ),
        (
            [attempt(1, 1, None, "pending"), attempt(2, 1, "pending", "accepted"), attempt(3, 2, None, "pending")],
            "attempt 2 began after attempt 1 was accepted",
        ),
        (
            [
                attempt(1, 1, None, "pending"),
                attempt(2, 1, "pending", "uncertain"),
                attempt(3, 1, "uncertain", "accepted"),
                attempt(4, 2, None, "pending"),
            ],
            "attempt 2 began after attempt 1 was accepted",
        ),
        ([attempt(1, 1, "accepted", "uncertain")], "attempt 1 was accepted, then uncertain"),
        ([attempt(1, 1, "refused_for_now", "accepted")], "attempt 1 was refused_for_now, then accepted"),
        ([attempt(1, 1, "uncertain", "pending")], "attempt 1 was uncertain, then pending"),
        (
            [
                attempt(1, 1, None, "pending"),
                attempt(5, 1, "pending", "uncertain"),
                message(5, "sending", "retrying", 1, 1, alive=True),
                attempt(7, 1, "uncertain", "accepted"),
            ],
            "attempt 1 was given away while its worker was alive",
        ),
        (
            [attempt(1, 1, None, "pending", stored_at=after(86_401))],
            "attempt 1 has the time of a clock that is 86400.0 s ahead",
        ),
        (
            [attempt(1, 1, "pending", "accepted", stored_at=after(-3599))],
            "attempt 1 has the time of a clock that is -3600.0 s ahead",
        ),
    ],
)
def test_a_violation_is_found(changes: list[Change], sentence: str) -> None:
    assert found(changes) == [sentence]


def test_an_acceptance_after_a_claim_was_given_away_is_no_violation() -> None:
    late = attempt(30, 2, "uncertain", "accepted")

    assert found([*GOOD, late]) == []


@pytest.mark.parametrize("length", range(1, len(GOOD)))
def test_each_beginning_of_a_good_history_is_good_and_open_until_its_end(length: int) -> None:
    so_far = GOOD[:length]
    ended = any(change.new == "sent" for change in so_far)

    assert found(so_far) == []
    assert len(found(so_far, within=timedelta(seconds=50), until=after(1000))) == (0 if ended else 1)


def test_a_message_that_ended_too_late_is_found() -> None:
    limits = {"within": timedelta(seconds=26), "until": after(100)}

    assert found(GOOD, **limits) == ["became sent 27.0 s after it was due"]
    assert found([message(0, None, "queued", 0, None, due_at=after(90))], **limits) == []


def test_triggers_write_down_every_change(history: Callable[[], list[Change]]) -> None:
    row = Message.objects.create(kind="mailer.TestEmail", recipient="ann@example.com")
    rows = Message.objects.filter(pk=row.pk)
    rows.update(state=State.SENDING, attempts=1, claimed_until=Now())
    opened = DeliveryAttempt.objects.create(message=row, number=1, transport="transport")
    DeliveryAttempt.objects.filter(pk=opened.pk).update(outcome=Outcome.ACCEPTED, finished_at=Now())
    DeliveryAttempt.objects.filter(pk=opened.pk).update(response="masked")
    rows.move(State.SENT)

    changes = history()

    assert [(c.what, c.old, c.new, c.number, c.before) for c in changes] == [
        ("message", None, "queued", 0, None),
        ("message", "queued", "sending", 1, 0),
        ("attempt", None, "pending", 1, None),
        ("attempt", "pending", "accepted", 1, None),
        ("attempt", "accepted", "accepted", 1, None),
        ("message", "sending", "sent", 1, 1),
    ]
    assert {c.message_id for c in changes} == {row.pk}
    assert [bool(c.stored_at) for c in changes if c.what == "attempt"] == [True, True, False]
    assert changes[0].due_at == row.due_at
    assert violations(changes) == []
    with connection.cursor() as cursor:
        assert read(cursor) == changes


def test_triggers_show_a_message_that_was_sent_twice(history: Callable[[], list[Change]]) -> None:
    row = Message.objects.create(kind="mailer.TestEmail", recipient="ann@example.com")
    rows = Message.objects.filter(pk=row.pk)
    for number in (1, 2):
        rows.update(state=State.SENDING, attempts=number, claimed_until=Now())
        DeliveryAttempt.objects.create(message=row, number=number, transport="t", outcome=Outcome.ACCEPTED)
        rows.update(state=State.SENT)

    assert violations(history()) == [
        f"message {row.pk}: went from sent to sending",
        f"message {row.pk}: attempt 2 began after attempt 1 was accepted",
    ]
