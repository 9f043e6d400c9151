"""A message for several recipients of which the server accepts some: each gets it exactly once."""

from collections import Counter, deque
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline, sweep
from mailer.delivery import prepare as preparing
from mailer.delivery.settle import settle
from mailer.models import Circuit, Message, Outcome, State, Suppression
from mailer.outcomes import Accepted, PermanentRefusal
from mailer.recipients import suppression
from tests.mailer.kinds import Shared
from tests.mailer.worker import claim_row, die
from tests.mailer.worker import deliver_now as deliver
from tests.smtp_sink import CUT, Sink

pytestmark = pytest.mark.django_db

ANN, BOB, CID, DEE = "ann@example.com", "bob@example.com", "cid@example.com", "dee@example.com"


def copies(sink: Sink) -> Counter[str]:
    """Return the number of copies for each recipient."""
    return Counter(recipient for received in sink.received for recipient in received.recipients)


def outcomes(message: Message) -> list[str]:
    return list(message.delivery_attempts.values_list("outcome", flat=True))


@pytest.fixture
def message(user: User) -> Message:
    return outbox.enqueue(Shared(user, copies=[BOB, CID], hidden=[DEE]))


def test_all_recipients_get_it_in_one_conversation_and_bcc_stays_hidden(message: Message, smtp: Sink) -> None:
    assert deliver(message).state == State.SENT

    [received] = smtp.received
    assert received.recipients == [ANN, BOB, CID, DEE]
    assert received.parsed["Cc"] == f"A colleague <{BOB}>, A colleague <{CID}>"
    assert DEE not in received.source.decode()
    assert message.answers == {}


def test_a_recipient_refused_for_now_gets_it_later_and_none_gets_two(message: Message, smtp: Sink) -> None:
    smtp.script.to = {BOB: "451 4.7.1 greylisted", DEE: "452 4.2.2 full"}
    assert deliver(message).state == State.RETRYING
    assert copies(smtp) == {ANN: 1, CID: 1}
    assert message.answers == {ANN: "accepted", CID: "accepted"}

    del smtp.script.to[BOB]
    assert deliver(message).state == State.RETRYING
    smtp.script.to.clear()
    assert deliver(message).state == State.SENT

    assert copies(smtp) == {ANN: 1, BOB: 1, CID: 1, DEE: 1}
    assert outcomes(message) == ["partly_accepted", "partly_accepted", "accepted"]
    first, *later = (received.parsed for received in smtp.received)
    for copy in later:  # the same message, with the same recipients in its header
        assert [copy[name] for name in ("Message-ID", "To", "Cc")] == [
            first[name] for name in ("Message-ID", "To", "Cc")
        ]


def test_a_recipient_refused_for_good_fails_it_after_the_others_got_it(message: Message, smtp: Sink) -> None:
    smtp.script.to = {BOB: "550 5.1.1 no such user", CID: "451 4.7.1 greylisted"}
    assert deliver(message).state == State.RETRYING
    assert list(Suppression.objects.values_list("address", flat=True)) == [BOB]
    smtp.script.to = {}

    assert deliver(message).state == State.FAILED

    assert message.reason == "refused for good for 1 of 4 recipients, accepted for the rest"
    assert copies(smtp) == {ANN: 1, CID: 1, DEE: 1}
    [first, _] = message.delivery_attempts.all()
    assert "not for b***@example.com: 550 5.1.1 no such user" in first.response


def test_the_first_recipient_may_be_the_refused_one(message: Message, smtp: Sink) -> None:
    smtp.script.to = {ANN: "550 5.1.1 no such user", BOB: "451 4.7.1 greylisted"}
    deliver(message)
    smtp.script.to = {}

    assert deliver(message).state == State.FAILED
    assert copies(smtp) == {BOB: 1, CID: 1, DEE: 1}


def test_after_mixed_refusals_it_is_retried_for_those_refused_for_now(message: Message, smtp: Sink) -> None:
    smtp.script.to = {ANN: "550 5.1.1 no", BOB: "550 5.7.1 no", CID: "451 4.7.1 later", DEE: "550 5.1.1 no"}
    assert deliver(message).state == State.RETRYING
    assert message.answers == {ANN: "refused", BOB: "refused", DEE: "refused"}
    [attempt] = message.delivery_attempts.all()
    assert "not for c***" not in attempt.response  # the recipient who may still get it
    assert set(Suppression.objects.values_list("address", flat=True)) == {ANN, DEE}
    smtp.script.to = {}

    assert deliver(message).state == State.FAILED
    assert copies(smtp) == {CID: 1}


def test_all_refused_for_good_fails_it_and_suppresses_only_unknown_addresses(message: Message, smtp: Sink) -> None:
    smtp.script.to = {ANN: "550 5.6.0 no", BOB: "550 5.6.0 no", CID: "550 5.6.0 no", DEE: "550 5.1.1 no such user"}

    assert deliver(message).state == State.FAILED
    assert list(Suppression.objects.values_list("address", flat=True)) == [DEE]


def test_what_may_be_the_servers_fault_is_no_answer_for_any_recipient(message: Message, smtp: Sink) -> None:
    blocked = "554 5.7.1 Client host rejected: Access denied"
    smtp.script.to = {ANN: blocked, BOB: blocked, CID: blocked, DEE: "550 5.1.1 no such user"}
    assert deliver(message).state == State.RETRYING
    assert message.answers == {DEE: "refused"}
    smtp.script.to = {}

    assert deliver(message).state == State.FAILED
    assert message.reason == "refused for good for 1 of 4 recipients, accepted for the rest"
    assert copies(smtp) == {ANN: 1, BOB: 1, CID: 1}


def test_a_full_mailbox_is_tried_again_for_a_day_and_no_copy_reaches_the_others(message: Message, smtp: Sink) -> None:
    """Row 41 of issue 14."""
    smtp.script.to = {BOB: "552 5.2.2 mailbox full"}
    assert deliver(message).state == State.RETRYING
    Message.objects.update(first_due_at=Now() - timedelta(hours=23))
    assert deliver(message).state == State.RETRYING
    Message.objects.update(first_due_at=Now() - timedelta(hours=25))

    assert deliver(message).state == State.FAILED
    assert copies(smtp) == {ANN: 1, CID: 1, DEE: 1}
    assert not Suppression.objects.exists()


def test_many_recipients_of_a_server_that_takes_few_at_a_time_get_it_at_once(user: User, smtp: Sink) -> None:
    """Row 36 of issue 14: an attempt that brings somebody in is no failure."""
    others = [f"n{number}@example.com" for number in range(11)]
    message = outbox.enqueue(Shared(user, copies=others))
    for taken in range(3, 15, 3):
        smtp.script.to = dict.fromkeys([ANN, *others][taken:], "452 4.5.3 Error: too many recipients")
        pipeline.deliver(message.pk)  # due at once, without a pause

    message.refresh_from_db()
    assert (message.state, message.attempts) == (State.SENT, 4)
    assert copies(smtp) == dict.fromkeys([ANN, *others], 1)


def test_what_single_recipients_were_told_before_a_421_is_kept(message: Message, smtp: Sink) -> None:
    """Row 40 of issue 14."""
    unknown = "550 5.1.1 no such user"
    smtp.script.to = {ANN: unknown, BOB: unknown, CID: "421 4.7.0 Error: too many errors"}
    assert deliver(message).state == State.RETRYING
    assert message.answers == {ANN: "refused", BOB: "refused"}
    assert set(Suppression.objects.values_list("address", flat=True)) == {ANN, BOB}
    assert not Circuit.objects.exclude(paused_until=None).exists()
    smtp.script.to = {}

    assert deliver(message).state == State.FAILED
    assert copies(smtp) == {CID: 1, DEE: 1}


def test_a_retry_by_a_person_reaches_only_those_who_have_not_got_it(message: Message, smtp: Sink) -> None:
    smtp.script.to = {BOB: "554 5.7.1 no"}
    assert deliver(message).state == State.FAILED
    smtp.script.to = {}

    assert outbox.retry(Message.objects.filter(pk=message.pk), reason="they fixed it") == 1
    assert deliver(message).state == State.SENT
    assert copies(smtp) == {ANN: 1, BOB: 1, CID: 1, DEE: 1}


def test_an_uncertain_attempt_is_retried_only_for_its_own_recipients(message: Message, smtp: Sink) -> None:
    smtp.script.to = {BOB: "451 4.7.1 later"}
    deliver(message)
    smtp.script.to = {}
    smtp.script.once["BODY"] = deque([CUT])
    assert deliver(message).state == State.RETRYING
    assert deliver(message).state == State.SENT

    assert copies(smtp) == {ANN: 1, BOB: 2, CID: 1, DEE: 1}
    assert outcomes(message) == [Outcome.PARTLY_ACCEPTED, Outcome.UNCERTAIN, Outcome.ACCEPTED]


def test_suppressed_recipients_are_excluded(message: Message, smtp: Sink) -> None:
    Suppression.objects.create(address=BOB, reason="550")

    assert deliver(message).state == State.SENT
    assert copies(smtp) == {ANN: 1, CID: 1, DEE: 1}
    assert smtp.received[0].parsed["Cc"] == f"A colleague <{BOB}>, A colleague <{CID}>"


def test_without_remaining_recipients_it_is_suppressed(message: Message, smtp: Sink) -> None:
    Suppression.objects.bulk_create(Suppression(address=address, reason="550") for address in (BOB, CID, DEE))
    Message.objects.update(answers={ANN: "accepted"})

    assert deliver(message).state == State.SUPPRESSED
    assert smtp.received == []


def test_a_late_answer_is_recorded(message: Message, smtp: Sink) -> None:
    late = Message.objects.get(pk=message.pk)
    claim_row(late)
    die()
    assert sweep.settle_claims_of_dead_workers() == 1

    settle(late, Accepted("250", "ok", (ANN, CID, DEE), {BOB: PermanentRefusal("550", "5.7.1 no")}))

    message.refresh_from_db()
    assert message.answers == {ANN: "accepted", CID: "accepted", DEE: "accepted", BOB: "refused"}
    assert deliver(message).state == State.FAILED
    assert smtp.received == []


def test_a_recipient_suppressed_before_the_claim_does_not_stop_the_others(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = outbox.enqueue(Shared(user, copies=[BOB]))
    prepare = preparing.prepare

    def slowly(row: Message, *_: Any) -> Any:
        ready = prepare(row)
        suppression.suppress(ANN, "550 5.1.1 unknown", message)
        return ready

    monkeypatch.setattr(pipeline, "prepare", slowly)
    assert deliver(message).state == State.QUEUED
    monkeypatch.undo()

    assert deliver(message).state == State.SENT
    assert [received.recipients for received in smtp.received] == [[BOB]]


@pytest.mark.parametrize(
    ("suppressed", "copies", "reached"),
    [
        (ANN, ["Ann@example.com", BOB], [BOB]),
        (BOB, ["Bob@example.com", BOB], [ANN]),
        ("bob@xn--bcher-kva.example", ["bob@bücher.example"], [ANN]),
        ("bob@bücher.example", ["bob@bücher.example"], [ANN]),
    ],
)
def test_suppression_recognizes_every_spelling(
    suppressed: str, copies: list[str], reached: list[str], user: User, smtp: Sink
) -> None:
    Suppression.objects.create(address=suppressed, reason="gone")

    assert deliver(outbox.enqueue(Shared(user, copies=copies))).state == State.SENT
    assert [received.recipients for received in smtp.received] == [reached]
