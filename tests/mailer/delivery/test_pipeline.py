"""One message through the pipeline, against a real PostgreSQL and a real SMTP conversation."""

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import claim, pipeline, sweep
from mailer.delivery import heartbeat as heartbeats
from mailer.models import Circuit, Message, Outcome, State, Suppression
from mailer.transports import client
from tests.mailer.kinds import Fleeting, Plain, Receipt
from tests.mailer.worker import deliver, deliver_now
from tests.smtp_sink import CUT, HANG, SLOW, Phase, Sink

pytestmark = pytest.mark.django_db


def outcomes(message: Message) -> list[str]:
    return list(message.delivery_attempts.values_list("outcome", flat=True))


def is_paused() -> bool:
    return Circuit.objects.exclude(paused_until=None).exists()


def test_a_mail_is_sent_once_with_both_parts_and_its_attempt_is_recorded(user: User, smtp: Sink) -> None:
    message = deliver(outbox.enqueue(Plain(user)))
    pipeline.deliver(message.pk)

    assert (message.state, message.attempts, message.worker, message.reservations) == (State.SENT, 1, None, 0)
    assert message.settled_at
    [attempt] = message.delivery_attempts.all()
    assert (attempt.outcome, attempt.phase, attempt.code) == ("accepted", "dot", "250")
    assert attempt.response == "2.0.0 Ok: queued as 1"
    assert attempt.finished_at is not None
    [received] = smtp.received
    assert received.recipients == ["ann@example.com"]
    assert received.parsed["Message-ID"] == message.message_id_header
    assert received.parsed["X-Entity-Ref-ID"] == message.message_id_header.strip("<>").partition("@")[0]
    assert received.parsed["To"] == "Ann <ann@example.com>"
    assert received.parsed["Auto-Submitted"] == "auto-generated"
    assert received.parsed["Subject"] == message.subject
    assert [part.get_content_type() for part in received.parsed.iter_parts()] == ["text/plain", "text/html"]


def test_one_connection_serves_many_messages(user: User, smtp: Sink) -> None:
    for _ in range(5):
        deliver(outbox.enqueue(Plain(user)))

    assert len(smtp.received) == 5
    assert smtp.connections == 1


def test_a_connection_that_the_server_closed_costs_no_attempt(user: User, smtp: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    smtp.script.once["MAIL"] = deque([CUT])

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (State.SENT, ["accepted"])
    assert smtp.connections == 2


def test_a_message_that_is_not_due_waits(user: User, smtp: Sink) -> None:
    message = deliver(outbox.enqueue(Plain(user), delay=timedelta(seconds=30)))

    assert (message.state, smtp.received) == (State.QUEUED, [])


# What the server says, and when.

DOWN, NOW, GOOD, UNKNOWN = (
    Outcome.TRANSPORT_DOWN,
    Outcome.REFUSED_FOR_NOW,
    Outcome.REFUSED_FOR_GOOD,
    Outcome.UNCERTAIN,
)


@pytest.mark.parametrize(
    ("phase", "reply", "state", "outcome", "pauses"),
    [
        ("MAIL", "451 4.3.0 later", State.RETRYING, DOWN, True),
        ("MAIL", "450 4.1.8 later", State.RETRYING, NOW, False),
        ("MAIL", "550 5.7.1 not permitted to send as shop@example.com", State.RETRYING, NOW, False),
        ("MAIL", "552 5.3.4 too big", State.FAILED, GOOD, False),
        ("MAIL", CUT, State.RETRYING, NOW, False),
        ("RCPT", "450 4.2.1 greylisted", State.RETRYING, NOW, False),
        ("RCPT", "421 4.3.2 going down", State.RETRYING, NOW, False),
        ("RCPT", "550 5.1.1 no such user", State.FAILED, GOOD, False),
        ("RCPT", "554 5.7.1 Client host rejected: Access denied", State.RETRYING, NOW, False),
        ("RCPT", CUT, State.RETRYING, NOW, False),
        ("DATA", "451 4.7.1 later", State.RETRYING, NOW, False),
        ("DATA", CUT, State.RETRYING, NOW, False),
        ("BODY", "452 4.3.1 full", State.RETRYING, DOWN, True),
        ("BODY", "554 5.6.0 spam", State.FAILED, GOOD, False),
        ("BODY", CUT, State.RETRYING, UNKNOWN, False),
    ],
)
def test_each_answer_in_each_phase_has_its_state(
    user: User, smtp: Sink, phase: Phase, reply: str, state: State, outcome: Outcome, pauses: bool
) -> None:
    smtp.script.always[phase] = reply

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message), is_paused()) == (state, [outcome], pauses)
    [attempt] = message.delivery_attempts.all()
    assert attempt.phase == ("dot" if phase == "BODY" else phase.lower())
    if reply != CUT:
        assert reply.partition(" ")[0] == attempt.code
    assert (message.claimed_until, message.worker) == (None, None)
    assert (message.settled_at is not None) == (state is State.FAILED)


@pytest.mark.parametrize(
    ("phase", "reply", "reason"),
    [
        ("CONNECT", "554 5.3.2 closed", "554 5.3.2 closed"),
        ("CONNECT", "421 4.3.2 closed", "421 4.3.2 closed"),
        ("CONNECT", CUT, ""),
        ("CONNECT", HANG, ""),
        ("EHLO", CUT, ""),
    ],
)
def test_what_fails_before_mail_concerns_no_message(
    user: User, smtp: Sink, settings: Settings, phase: Phase, reply: str, reason: str
) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "0.3"}
    smtp.script.always[phase] = reply

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, message.attempts, outcomes(message)) == (State.QUEUED, 0, [])
    assert (message.worker, message.reservations) == (None, 0)
    assert reason in Circuit.objects.exclude(paused_until=None).get().reason


def test_a_refused_login_is_logged_as_misconfiguration_and_the_mail_waits(
    user: User, through: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with Sink(user="shop", password="right") as sink:
        through(f"smtp://shop:wrong@127.0.0.1:{sink.port}")
        message = deliver(outbox.enqueue(Plain(user)))
        assert (message.state, outcomes(message)) == (State.QUEUED, [])
        circuit = Circuit.objects.get()
        assert (circuit.needs_person, "535" in circuit.reason) == (True, True)
        assert ["transport paused" in r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [True]
        assert "wrong" not in caplog.text

        through(sink.url)
        Circuit.objects.update(paused_until=Now())
        assert deliver(message).state == State.SENT
        assert not is_paused()


def test_a_server_that_is_slow_at_every_step_gets_the_mail(user: User, smtp: Sink, settings: Settings) -> None:
    """Row 1 of issue 14: the bound is on silence, not on the conversation."""
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "1.5"}
    smtp.script.always = {"EHLO": SLOW, "MAIL": SLOW, "RCPT": SLOW, "DATA": SLOW}

    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT


def test_the_answer_to_the_dot_may_take_longer_than_any_other_one(user: User, smtp: Sink, settings: Settings) -> None:
    """Row 4 of issue 14."""
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "0.3"}
    smtp.script.once["BODY"] = deque([SLOW])

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (State.SENT, [Outcome.ACCEPTED])


def test_a_silent_server_after_the_payload_leaves_the_outcome_uncertain(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST_ANSWER_TO_DOT", timedelta(seconds=0.3))
    smtp.script.once["BODY"] = deque([HANG])

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.UNCERTAIN])


@pytest.mark.parametrize("url", ["smtp://127.0.0.1:1", "smtp://me:p%C3%A4ss@127.0.0.1:{port}", "smtp://a..example.com"])
def test_a_transport_that_cannot_be_used_fails_no_message(user: User, through: Callable[[str], None], url: str) -> None:
    with Sink(user="me", password="pass") as sink:
        through(url.format(port=sink.port))
        message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message), is_paused()) == (State.QUEUED, [], True)


@pytest.mark.parametrize(("phase", "reply"), [("BODY", CUT), ("RCPT", "450 4.2.1 later")])
def test_the_fallback_never_gets_a_mail_that_the_primary_may_have_accepted(
    user: User, sink: Sink, settings: Settings, phase: Phase, reply: str
) -> None:
    sink.script.once[phase] = deque([reply])
    settings.MAILERS = {"transport": email_url(sink.url), "fallback": email_url("smtp://127.0.0.1:1")}
    message = deliver(outbox.enqueue(Plain(user)))
    assert message.state == State.RETRYING
    assert deliver(message).state == State.RETRYING  # not due yet

    assert deliver_now(message).state == State.SENT
    assert set(message.delivery_attempts.values_list("transport", flat=True)) == {"transport"}


@pytest.mark.parametrize("reply", ["250 queued as \0", "250 queued as " + "x" * 9000])
def test_an_odd_reply_to_the_payload_is_recorded(user: User, smtp: Sink, reply: str) -> None:
    smtp.script.once["BODY"] = deque([reply])

    message = deliver(outbox.enqueue(Plain(user)))

    assert outcomes(message) == [Outcome.UNCERTAIN if len(reply) > 8000 else Outcome.ACCEPTED]
    assert message.state in (State.SENT, State.RETRYING)


@pytest.mark.parametrize("reply", ["200 fine", "251 2.0.0 will forward", "250 ok", "299 x"])
def test_every_2xx_is_a_yes(user: User, smtp: Sink, reply: str) -> None:
    """Row 23 of issue 14."""
    smtp.script.once["BODY"] = deque([reply])

    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT


def test_an_unknown_address_is_suppressed_and_gets_no_more_mail(user: User, smtp: Sink) -> None:
    smtp.script.once["RCPT"] = deque(["550 5.1.1 <ann@example.com>: no such user"])

    first = deliver(outbox.enqueue(Plain(user)))
    second = deliver(outbox.enqueue(Plain(user)))

    assert first.state == State.FAILED
    assert Suppression.objects.get().reason == "550 5.1.1 <a***@example.com>: no such user"
    assert (second.state, second.attempts) == (State.SUPPRESSED, 0)
    assert "550 5.1.1" in second.reason
    assert smtp.received == []


def test_an_uncertain_mail_whose_copy_would_do_harm_is_held(user: User, smtp: Sink) -> None:
    smtp.script.once["BODY"] = deque([CUT])
    message = deliver(outbox.enqueue(Receipt(user)))
    assert (message.state, outcomes(message)) == (State.HELD, [Outcome.UNCERTAIN])

    assert outbox.retry(Message.objects.filter(pk=message.pk), reason="asked the customer") == 1
    assert deliver(message).state == State.SENT

    assert [r.parsed["Message-ID"] for r in smtp.received] == [message.message_id_header] * 2


def test_a_message_that_the_backend_did_not_send_fails(user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailer.transports.staging.let_through", lambda messages: [])

    message = deliver(outbox.enqueue(Plain(user)))

    assert message.state == State.FAILED
    assert "did not send it" in message.reason


def test_without_a_mail_server_tests_find_mail_in_djangos_outbox(user: User) -> None:
    deliver(outbox.enqueue(Plain(user)))

    assert [m.to for m in mail.outbox] == [["Ann <ann@example.com>"]]


# Refusals that come again.


def age(message: Message, by: timedelta) -> Message:
    """Let time pass for a message, until it is due."""
    message.refresh_from_db()
    Message.objects.filter(pk=message.pk).update(first_due_at=message.first_due_at - by, due_at=Now())
    return message


def test_a_refusal_for_now_is_retried_with_growing_pauses_for_five_days(user: User, smtp: Sink) -> None:
    """Row 20 of issue 14: attempts are only counted."""
    smtp.script.always["RCPT"] = "450 4.2.1 greylisted"
    message, pauses = outbox.enqueue(Plain(user)), []
    while deliver(message).state == State.RETRYING:
        pauses.append((message.due_at - timezone.now()).total_seconds())
        age(message, timedelta(seconds=pauses[-1]))

    assert (message.state, set(outcomes(message))) == (State.FAILED, {Outcome.REFUSED_FOR_NOW})
    assert message.reason == "tried for 5 days; last answer: 450 4.2.1 greylisted"
    assert 4.9 <= pauses[0] <= 10.1
    assert 1799 <= max(pauses) <= 3601
    assert 4.9 * 86400 <= sum(pauses) <= 5 * 86400
    assert message.attempts > 120


def test_mail_that_waited_through_an_outage_of_hours_is_sent(user: User, smtp: Sink) -> None:
    smtp.script.always["RCPT"] = "450 4.2.1 later"
    message = outbox.enqueue(Plain(user))
    for _ in range(20):
        assert deliver(message).state == State.RETRYING
        age(message, timedelta(hours=1))
    smtp.script.always.clear()

    assert deliver(message).state == State.SENT


def test_a_421_for_one_recipient_is_held_against_the_message(user: User, smtp: Sink, make_user: Any) -> None:
    """Row 3 of issue 14."""
    smtp.script.to = {"odd@example.com": "421 4.3.0 service not available"}
    odd, other = outbox.enqueue(Plain(make_user("odd@example.com"))), outbox.enqueue(Plain(user))
    for _ in range(4):
        assert deliver_now(odd).state == State.RETRYING
        assert odd.due_at > timezone.now() + timedelta(seconds=4)

    assert (set(outcomes(odd)), is_paused()) == ({Outcome.REFUSED_FOR_NOW}, False)
    assert deliver(other).state == State.SENT


def test_a_421_for_every_recipient_pauses_the_transport(user: User, smtp: Sink, make_user: Any) -> None:
    smtp.script.always["RCPT"] = "421 4.3.0 service not available"
    for name in ("a", "b"):
        deliver(outbox.enqueue(Plain(make_user(f"{name}@{name}.example"))))

    assert is_paused()
    waits = deliver(outbox.enqueue(Plain(user)))
    assert (waits.state, waits.attempts) == (State.QUEUED, 0)


@pytest.mark.parametrize("reply", ["553 5.7.1 not permitted", "550 5.7.1 rejected by policy"])
def test_a_poison_mail_fails_once_others_pass_and_never_stops_them(
    user: User, smtp: Sink, make_user: Any, reply: str
) -> None:
    """Rows 2 and 40 of issue 14."""
    smtp.script.to = {"poison@example.com": reply}
    poison = deliver(outbox.enqueue(Plain(make_user("poison@example.com"))))
    assert poison.state == State.RETRYING
    assert [deliver(outbox.enqueue(Plain(user))).state for _ in range(3)] == [State.SENT] * 3

    assert deliver_now(poison).state == State.FAILED
    assert not is_paused()
    assert not Suppression.objects.exists()


def test_a_full_mailbox_is_worth_another_try_for_a_day_and_is_not_suppressed(user: User, smtp: Sink) -> None:
    """Row 41 of issue 14."""
    smtp.script.always["RCPT"] = "552 5.2.2 mailbox full"
    message = deliver(outbox.enqueue(Plain(user)))
    assert message.state == State.RETRYING

    assert deliver(age(message, timedelta(hours=23))).state == State.RETRYING
    assert deliver(age(message, timedelta(hours=2))).state == State.FAILED
    assert "552 5.2.2" in message.reason
    assert not Suppression.objects.exists()


# The last look before it is sent.


class Lasting(Plain):
    """It has a deadline soon."""

    seconds: float = 0.5

    def expires_at(self) -> datetime:
        return timezone.now() + timedelta(seconds=self.seconds)


def test_nothing_is_sent_after_its_deadline(user: User, smtp: Sink) -> None:
    assert deliver(outbox.enqueue(Fleeting(user))).state == State.EXPIRED
    assert smtp.received == []


def test_a_deadline_that_passes_while_it_connects_leaves_no_attempt(user: User, smtp: Sink) -> None:
    smtp.script.once["EHLO"] = deque([SLOW])

    message = deliver(outbox.enqueue(Lasting(user)))
    assert (message.state, outcomes(message)) == (State.QUEUED, [])

    assert deliver(message).state == State.EXPIRED
    assert smtp.received == []


@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
def test_a_deadline_that_passes_during_the_conversation_stops_the_mail(user: User, smtp: Sink, phase: Phase) -> None:
    """Row 22 of issue 14."""
    smtp.script.once[phase] = deque([SLOW])

    message = deliver(outbox.enqueue(Lasting(user)))
    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.INTERRUPTED])
    assert message.reason == "its deadline passed before it was sent"

    assert deliver(message).state == State.EXPIRED
    assert smtp.received == []


@pytest.mark.parametrize("phase", ["MAIL", "DATA"])
def test_a_worker_whose_heartbeat_is_late_sends_nothing(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    """Row 27 of issue 14: it paused between the claim and MAIL, or while the body was written."""
    monkeypatch.setattr(heartbeats, "LATE", 0.7)
    if phase == "DATA":
        smtp.script.once["DATA"] = deque([SLOW])
    else:

        def pause(*args: Any) -> Any:
            claimed = claim.claim(*args)
            time.sleep(0.8)
            return claimed

        monkeypatch.setattr(pipeline, "claim", pause)

    message = deliver(outbox.enqueue(Receipt(user)))
    monkeypatch.undo()

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.INTERRUPTED])
    assert "heartbeat" in message.reason
    assert smtp.received == []
    assert deliver(message).state == State.SENT


def test_a_worker_sends_nothing_that_the_server_might_answer_after_the_lease(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    smtp.script.once["DATA"] = deque([SLOW])
    monkeypatch.setattr(pipeline, "LATEST_DOT", 0.7)

    message = deliver(outbox.enqueue(Receipt(user)))

    assert (message.state, outcomes(message), smtp.received) == (State.RETRYING, [Outcome.INTERRUPTED], [])
    assert deliver(message).state == State.SENT


def test_nothing_is_uncertain_although_the_claim_of_an_interrupted_worker_was_given_away(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = outbox.enqueue(Plain(user))

    def sleep(*args: Any) -> Any:
        claimed = claim.claim(*args)
        Message.objects.update(claimed_until=Now() - timedelta(seconds=1))  # as another process sees it
        assert sweep.settle_claims_of_dead_workers() == 1
        assert outcomes(message) == [Outcome.UNCERTAIN]
        heartbeats.heartbeat._last -= 3600
        return claimed

    monkeypatch.setattr(pipeline, "claim", sleep)
    deliver(message)

    assert (message.state, outcomes(message), smtp.received) == (State.RETRYING, [Outcome.INTERRUPTED], [])


# What is no longer wanted, or odd.


def test_a_mail_that_is_no_longer_wanted_is_cancelled(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    User.objects.update(is_active=False)

    assert deliver(message).state == State.CANCELLED
    assert message.reason == "no longer wanted when it was due"


def test_a_mail_about_a_deleted_row_is_cancelled(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    pk = user.pk
    user.delete()

    assert deliver(message).state == State.CANCELLED
    assert message.reason == f"user {pk} no longer exists"


def test_a_mail_can_be_cancelled_until_it_is_sent(user: User, smtp: Sink) -> None:
    waiting, gone = outbox.enqueue(Plain(user)), deliver(outbox.enqueue(Plain(user)))

    assert outbox.cancel(waiting)
    assert not outbox.cancel(gone)
    assert deliver(waiting).state == State.CANCELLED


def test_suppression_ignores_case(user: User, smtp: Sink) -> None:
    Suppression.objects.create(address="ann@example.com", reason="550")
    User.objects.update(email="Ann@Example.com")

    assert deliver(outbox.enqueue(Plain(User.objects.get()))).state == State.SUPPRESSED


@pytest.mark.parametrize("subject", ["x" * 2000, "a\0b", "line\r\nBcc: eve@example.com"])
def test_an_odd_subject_does_not_stop_the_mail(
    user: User, smtp: Sink, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    for name, text in (("subject.txt", subject), ("body.txt", "text"), ("body.html", "<p>html</p>")):
        (tmp_path / name).write_text(text)
    settings.TEMPLATES = [settings.TEMPLATES[0] | {"DIRS": [tmp_path.parent]}]
    monkeypatch.setattr(Plain, "template", tmp_path.name)

    message = deliver(outbox.enqueue(Plain(user)))

    assert message.state == State.SENT
    assert len(message.subject) <= 998
    assert smtp.received[0].parsed["Bcc"] is None
