"""Reservations and claims: one worker has a message, what a dead one had is given away, and late answers are the truth."""

import time
import uuid
from collections import deque
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.db import DataError, OperationalError, connection
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.delivery import claim, pipeline, reserve, settle, sweep, verdict
from mailer.delivery import prepare as preparing
from mailer.delivery.heartbeat import heartbeat
from mailer.models import SILENCE, Message, Outcome, State, Suppression, Worker
from mailer.outcomes import Accepted, OutcomeUnknown, PermanentRefusal, TransientRefusal
from tests.at_once import at_once
from tests.mailer.kinds import Plain, Receipt
from tests.mailer.worker import another_host, claim_row, deliver, deliver_now, die, make_due, prepare
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


def outcomes(message: Message) -> list[str]:
    return list(message.delivery_attempts.values_list("outcome", flat=True))


def claimed_and_abandoned(user: User, kind: type[Plain] = Plain) -> Message:
    """Return a message whose worker fell silent, as it has it; a sweep settled the claim."""
    message = outbox.enqueue(kind(user))
    claim_row(message)
    die()
    assert sweep.settle_claims_of_dead_workers() == 1
    return message


# One worker has it.


def test_a_message_that_a_living_worker_has_in_hand_is_not_reserved(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    assert reserve.reserve(message.pk)

    another_host("web-2")
    assert reserve.reserve(message.pk) is None
    assert not reserve.has_due(["default"], [""])


def test_a_message_that_a_dead_worker_had_in_hand_is_due_again(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    assert reserve.reserve(message.pk)
    die()

    assert deliver(message).state == State.SENT
    assert outcomes(message) == [Outcome.ACCEPTED]


def test_a_message_that_was_dropped_while_the_database_was_away_is_due_at_once(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("the connection is lost")

    message = outbox.enqueue(Plain(user))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "prepare", fail)
        with pytest.raises(OperationalError):
            pipeline.deliver(message.pk)
    message.refresh_from_db()
    assert (message.worker, message.state, heartbeat.in_hand()) == (heartbeat.worker, State.QUEUED, [])

    assert deliver(message).state == State.SENT


@pytest.mark.django_db(transaction=True)
def test_one_of_several_threads_reserves_it(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    heartbeat.beat()

    reserved, failures = at_once([lambda: reserve.reserve(message.pk) is not None] * 4)

    assert (sorted(reserved), failures) == ([False] * 3 + [True], [])


@pytest.mark.django_db(transaction=True)
def test_one_of_two_workers_gets_the_claim(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    reserved = reserve.reserve(message.pk)
    assert reserved
    ready = prepare(message)
    copies = [Message.objects.get(pk=message.pk) for _ in range(3)]

    claimed, failures = at_once([lambda copy=copy: claim.claim_row(copy, ready) for copy in copies])  # type: ignore[misc]

    assert (sorted(claimed), failures) == ([False, False, True], [])
    assert outcomes(message) == [Outcome.PENDING]


@pytest.mark.parametrize("meanwhile", ["another worker", "it was silent", "cancelled", "it has another attempt"])
def test_a_worker_that_lost_its_reservation_does_not_claim(user: User, meanwhile: str) -> None:
    message = outbox.enqueue(Plain(user))
    slow = reserve.reserve(message.pk)
    assert slow
    ready, me = prepare(message), heartbeat.worker
    match meanwhile:
        case "another worker":
            die()
            assert reserve.reserve(message.pk)
            heartbeat.worker = me
            heartbeat.beat()  # it wakes
        case "it was silent":
            Worker.objects.update(seen_at=Now() - SILENCE)
        case "cancelled":
            outbox.cancel(message)
        case "it has another attempt":
            Message.objects.update(attempts=1)

    assert not claim.claim_row(slow.message, ready)
    assert outcomes(message) == []


class Overtaking(Plain):
    """A second worker delivers it while the first one, which was silent, asks whether it is wanted."""

    is_overtaken: ClassVar = False

    def is_wanted(self) -> bool:
        if type(self).is_overtaken:
            return True
        type(self).is_overtaken = True
        die()
        pipeline.deliver(Message.objects.get().pk)
        return False


def test_a_worker_that_was_overtaken_does_not_settle(user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Overtaking, "is_overtaken", False)
    smtp.script.once["RCPT"] = deque(["450 4.2.1 later"])

    message = deliver(outbox.enqueue(Overtaking(user)))

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.REFUSED_FOR_NOW])


def test_an_address_that_was_suppressed_after_the_mail_was_composed_gets_none(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = preparing.prepare

    def slowly(row: Message, *_: Any) -> Any:
        ready = prepare(row)
        Suppression.objects.create(address=user.email, reason="550 5.1.1 unknown")
        return ready

    monkeypatch.setattr(pipeline, "prepare", slowly)

    assert deliver(outbox.enqueue(Plain(user))).state == State.SUPPRESSED
    assert smtp.received == []


# What a dead worker had.


def test_a_claim_of_a_silent_worker_is_settled_as_uncertain_and_retried(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    claim_row(message)
    assert sweep.settle_claims_of_dead_workers() == 0

    die()
    assert sweep.settle_claims_of_dead_workers() == 1

    message.refresh_from_db()
    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.UNCERTAIN])
    assert deliver_now(message).state == State.SENT


@pytest.mark.parametrize("ago", [timedelta(seconds=3), timedelta(minutes=9), timedelta(minutes=110)])
def test_a_claim_of_a_living_worker_is_kept_however_long_it_takes(user: User, ago: timedelta) -> None:
    """Row 4 of issue 14."""
    message = outbox.enqueue(Receipt(user))
    claim_row(message)
    Message.objects.update(claimed_until=Now() + claim.LEASE - ago)
    another_host("web-2")
    heartbeat.beat()

    assert sweep.settle_claims_of_dead_workers() == 0


def test_a_worker_that_has_just_begun_does_not_judge_the_others(user: User) -> None:
    """After the database was away, every worker looks silent at first."""
    message = outbox.enqueue(Plain(user))
    claim_row(message)
    die()
    heartbeat.beat()

    sweep.sweep()
    assert Message.objects.get().state == State.SENDING

    heartbeat._first -= SILENCE.total_seconds()
    sweep.sweep()
    assert Message.objects.get().state == State.RETRYING


def test_a_claim_of_the_release_before_is_settled_when_its_lease_ends(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    claim_row(message)
    Message.objects.update(worker=None, claimed_until=Now() + timedelta(seconds=30))
    assert sweep.settle_claims_of_dead_workers() == 0

    Message.objects.update(claimed_until=Now() - timedelta(seconds=1))
    assert sweep.settle_claims_of_dead_workers() == 1


def test_a_message_that_ends_its_workers_before_the_claim_is_quarantined(
    user: User, smtp: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 19 of issue 14."""
    message = outbox.enqueue(Plain(user))
    for _ in range(reserve.QUARANTINE):
        assert reserve.reserve(message.pk)
        die()

    assert deliver(message).state == State.HELD
    assert message.reason == "quarantined: 3 workers stopped while they prepared it"
    assert [r.levelname for r in caplog.records if "quarantined" in r.getMessage()] == ["ERROR"]
    assert (outcomes(message), smtp.received) == ([], [])

    assert outbox.retry(Message.objects.all(), reason="mended") == 1
    assert deliver(message).state == State.SENT


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [DataError, ZeroDivisionError])
def test_an_outcome_that_cannot_be_recorded_is_left_to_a_person(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Otherwise the claim would end as uncertain, again and again, and the mail would be sent each time."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(settle, "_settle_accepted", fail)

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, message.worker, len(smtp.received)) == (State.HELD, None, 1)
    assert message.reason.startswith(f"{error.__name__} when the server's answer was recorded, which was: 250")
    assert outbox.mark_as_delivered(Message.objects.all(), reason="the answer says so") == 1


def test_outages_of_the_database_quarantine_no_message(user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each one, another worker is the first that comes back."""
    message = outbox.enqueue(Plain(user))
    workers = [heartbeat.worker, uuid.uuid4()]
    for number in range(2 * reserve.QUARANTINE):
        monkeypatch.setattr(heartbeat, "worker", workers[number % 2])
        assert reserve.reserve(message.pk)
        monkeypatch.setattr(heartbeat, "_last", time.monotonic() - SILENCE.total_seconds())
        Worker.objects.update(seen_at=Now() - SILENCE)

    monkeypatch.setattr(heartbeat, "worker", workers[0])
    assert deliver(message).state == State.SENT


def test_a_message_that_ends_its_workers_after_the_claim_is_quarantined(
    user: User, smtp: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    message = outbox.enqueue(Plain(user))
    for number in range(reserve.QUARANTINE):
        message.refresh_from_db()
        assert message.state == (State.RETRYING if number else State.QUEUED)
        claim_row(make_due(message))
        die()
        assert sweep.settle_claims_of_dead_workers() == 1

    message.refresh_from_db()
    assert message.state == State.HELD
    assert message.reason == "quarantined: 3 workers stopped while they sent it"
    assert [r.levelname for r in caplog.records if "quarantined" in r.getMessage()] == ["ERROR"]

    assert outbox.retry(Message.objects.all(), reason="mended") == 1
    assert deliver(message).state == State.SENT


def test_deaths_that_others_survived_are_not_counted(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"
    for _ in range(2 * reserve.QUARANTINE):  # two die, then one survives
        for _ in range(reserve.QUARANTINE - 1):
            assert reserve.reserve(message.pk)
            die()
        assert deliver(message).state == State.QUEUED
    assert message.reservations == 0


@pytest.mark.django_db(transaction=True)  # a sweep has no outer transaction
def test_an_abandoned_message_of_an_unknown_kind_does_not_block_others(user: User) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(2)]
    for message in messages:
        claim_row(message)
    die()
    Message.objects.filter(pk=messages[0].pk).update(kind="accounts.FromTomorrow")

    assert sweep.settle_claims_of_dead_workers() == 1
    unknown, known = (Message.objects.get(pk=message.pk) for message in messages)
    assert (unknown.state, outcomes(unknown)) == (State.SENDING, [Outcome.PENDING])
    assert known.state == State.RETRYING


@pytest.mark.django_db(transaction=True)
def test_one_row_that_raises_does_not_stop_the_sweep(
    user: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 31 of issue 14. The error is one of PostgreSQL's, which also breaks the transaction that it happens in."""
    messages = [outbox.enqueue(Plain(user)) for _ in range(3)]
    claim_row(messages[0])
    claim_row(messages[1])
    die()
    heartbeat.beat()
    heartbeat._first -= SILENCE.total_seconds()
    Message.objects.filter(pk=messages[2].pk).update(expires_at=Now())
    decide = verdict.decide

    def fail(message: Message, *rest: Any) -> Any:
        if message.pk == messages[0].pk:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
        return decide(message, *rest)

    monkeypatch.setattr(settle, "decide", fail)
    sweep.sweep()

    states = list(Message.objects.order_by("pk").values_list("state", flat=True))
    assert states == [State.SENDING, State.RETRYING, State.EXPIRED]
    assert "DivisionByZero" in caplog.text
    monkeypatch.undo()
    sweep.sweep()
    assert Message.objects.get(pk=messages[0].pk).state == State.RETRYING


# Late answers.


def test_a_worker_that_comes_back_late_does_not_overwrite_a_newer_outcome(user: User, smtp: Sink) -> None:
    late = claimed_and_abandoned(user)
    assert deliver_now(Message.objects.get(pk=late.pk)).state == State.SENT

    settle.settle(late, PermanentRefusal("550", "no"))

    message = Message.objects.get(pk=late.pk)
    assert message.state == State.SENT
    assert outcomes(message) == [Outcome.REFUSED_FOR_GOOD, Outcome.ACCEPTED]


@pytest.mark.parametrize("meanwhile", ["nothing", "failed", "retried by a person", "retried and refused"])
def test_a_late_acceptance_settles_the_message(user: User, smtp: Sink, meanwhile: str) -> None:
    """Row 24 of issue 14."""
    late = claimed_and_abandoned(user)
    if meanwhile == "retried and refused":
        smtp.script.once["RCPT"] = deque(["450 4.2.1 later"])
        assert deliver_now(Message.objects.get(pk=late.pk)).state == State.RETRYING
    elif meanwhile != "nothing":
        Message.objects.filter(pk=late.pk).update(state=State.FAILED)
    if meanwhile == "retried by a person":
        outbox.retry(Message.objects.filter(pk=late.pk), reason="again")

    settle.settle(late, Accepted("250", "ok"))

    message = Message.objects.get(pk=late.pk)
    assert (message.state, outcomes(message)[0]) == (State.SENT, Outcome.ACCEPTED)
    assert deliver_now(message).state == State.SENT
    assert smtp.received == []


def test_an_answer_that_is_recorded_twice_is_that_of_the_first_time(user: User) -> None:
    """The database was away when it confirmed the first time."""
    message = claim_row(outbox.enqueue(Plain(user)))

    for text in ("queued as 1", "queued as 2"):
        settle.settle(message, Accepted("250", text))

    assert message.delivery_attempts.get().response == "queued as 1"


def test_a_late_acceptance_settles_a_held_receipt(user: User) -> None:
    late = claimed_and_abandoned(user, Receipt)
    assert Message.objects.get().state == State.HELD

    settle.settle(late, Accepted("250", "ok"))

    assert Message.objects.get().state == State.SENT


def test_after_a_late_acceptance_a_refused_copy_is_not_retried(user: User, smtp: Sink) -> None:
    late = claimed_and_abandoned(user)
    second = Message.objects.get(pk=make_due(late).pk)
    claim_row(second)

    settle.settle(late, Accepted("250", "ok"))
    assert Message.objects.get(pk=late.pk).state == State.SENDING
    settle.settle(second, TransientRefusal("451", "later"))

    message = Message.objects.get(pk=late.pk)
    assert message.state == State.SENT
    assert "an earlier attempt was accepted; answer to the last one" in message.reason


def test_a_late_sweep_does_not_overwrite_the_servers_answer(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    stale = deliver(message)
    assert stale.state == State.SENT
    settle.settle(stale, OutcomeUnknown("the worker stopped responding"))

    message.refresh_from_db()
    assert (message.state, outcomes(message)) == (State.SENT, [Outcome.ACCEPTED])


def test_a_held_mail_can_be_marked_as_delivered(user: User) -> None:
    message = claimed_and_abandoned(user, Receipt)
    others = [outbox.enqueue(Plain(user)) for _ in range(3)]
    for other, state in zip(others, (State.FAILED, State.RETRYING, State.EXPIRED), strict=True):
        Message.objects.filter(pk=other.pk).update(state=state)

    assert outbox.mark_as_delivered(Message.objects.all(), reason="found in the server's log") == 1

    message.refresh_from_db()
    assert (message.state, message.reason) == (State.SENT, "found in the server's log")
