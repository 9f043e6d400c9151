"""One message through the pipeline, against a real PostgreSQL and a real SMTP conversation."""

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.core import mail
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import claim, pipeline, sweep
from mailer.delivery.settle import settle
from mailer.models import Message, Outcome, State, Suppression, TransportState
from mailer.outcomes import Accepted, OutcomeUnknown, PermanentRefusal, TransientRefusal
from tests.mailer.kinds import Broken, Fleeting, Plain, Raising, Receipt
from tests.mailer.worker import claim_row, deliver, deliver_now, make_due, prepare
from tests.smtp_sink import CUT, HANG, SLOW, Phase, Sink

pytestmark = pytest.mark.django_db


def outcomes(message: Message) -> list[str]:
    return list(message.delivery_attempts.values_list("outcome", flat=True))


def test_a_mail_is_sent_once_with_both_parts_and_its_attempt_is_recorded(user: User, smtp: Sink) -> None:
    message = deliver(outbox.enqueue(Plain(user)))
    pipeline.deliver(message.pk)

    assert (message.state, message.attempts) == (State.SENT, 1)
    assert message.settled_at
    [attempt] = message.delivery_attempts.all()
    assert (attempt.outcome, attempt.code, attempt.response) == ("accepted", "250", "2.0.0 Ok: queued as 1")
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


@pytest.mark.parametrize(
    ("phase", "reply", "state", "outcome", "reason"),
    [
        ("CONNECT", "554 5.3.2 closed", State.RETRYING, Outcome.TRANSPORT_DOWN, "554 5.3.2 closed"),
        ("CONNECT", CUT, State.RETRYING, Outcome.TRANSPORT_DOWN, "SMTPServerDisconnected"),
        ("EHLO", CUT, State.RETRYING, Outcome.TRANSPORT_DOWN, "SMTPServerDisconnected"),
        ("MAIL", "451 4.3.0 later", State.RETRYING, Outcome.REFUSED_FOR_NOW, "451 4.3.0 later"),
        ("MAIL", "550 5.7.1 not your sender", State.RETRYING, Outcome.TRANSPORT_DOWN, "550 5.7.1 not your sender"),
        ("MAIL", "552 5.3.4 too big", State.FAILED, Outcome.REFUSED_FOR_GOOD, "552 5.3.4 too big"),
        ("MAIL", CUT, State.RETRYING, Outcome.TRANSPORT_DOWN, "SMTPServerDisconnected"),
        ("RCPT", "450 4.2.1 greylisted", State.RETRYING, Outcome.REFUSED_FOR_NOW, "450 4.2.1 greylisted"),
        ("RCPT", "421 4.3.2 going down", State.RETRYING, Outcome.TRANSPORT_DOWN, "421 4.3.2 going down"),
        ("RCPT", "550 5.1.1 no such user", State.FAILED, Outcome.REFUSED_FOR_GOOD, "550 5.1.1 no such user"),
        ("RCPT", CUT, State.RETRYING, Outcome.TRANSPORT_DOWN, "SMTPServerDisconnected"),
        ("DATA", "451 4.3.0 later", State.RETRYING, Outcome.REFUSED_FOR_NOW, "451 4.3.0 later"),
        ("DATA", CUT, State.RETRYING, Outcome.TRANSPORT_DOWN, "SMTPServerDisconnected"),
        ("BODY", "452 4.3.1 full", State.RETRYING, Outcome.REFUSED_FOR_NOW, "452 4.3.1 full"),
        ("BODY", "554 5.7.1 spam", State.FAILED, Outcome.REFUSED_FOR_GOOD, "554 5.7.1 spam"),
        ("BODY", CUT, State.RETRYING, Outcome.UNCERTAIN, "the payload was sent, then"),
    ],
)
def test_each_answer_in_each_phase_has_its_state(
    user: User, smtp: Sink, phase: Phase, reply: str, state: State, outcome: Outcome, reason: str
) -> None:
    smtp.script.always[phase] = reply

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (state, [outcome])
    assert reason in message.reason
    assert message.claimed_until is None
    assert (message.settled_at is not None) == (state is State.FAILED)


def test_a_refusal_for_now_is_retried_with_growing_pauses_until_the_limit(user: User, smtp: Sink) -> None:
    smtp.script.always["RCPT"] = "451 4.3.0 later"
    message = outbox.enqueue(Plain(user))
    pauses = []
    for _ in range(10):
        before = timezone.now()
        deliver(message)
        pauses.append((message.due_at - before).total_seconds())
        Message.objects.filter(pk=message.pk).update(due_at=before)

    assert (message.state, message.attempts) == (State.FAILED, 10)
    assert message.reason.startswith("10 attempts, which is the limit")
    assert 4.9 <= pauses[0] <= 11
    assert 900 <= pauses[8] <= 2561
    assert outcomes(message) == [Outcome.REFUSED_FOR_NOW] * 10


def test_a_refused_login_is_logged_as_misconfiguration_and_the_mail_waits(
    user: User, through: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with Sink(user="shop", password="right") as sink:
        through(f"smtp://shop:wrong@127.0.0.1:{sink.port}")
        message = deliver(outbox.enqueue(Plain(user)))
        through(sink.url)
        TransportState.objects.update(paused_until=timezone.now())
        assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.TRANSPORT_DOWN])
        assert "535" in message.reason
        errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert ["transport paused" in errors[0], "must correct the transport's configuration" in errors[1]] == [
            True,
            True,
        ]
        assert "wrong" not in caplog.text

        assert deliver(message).state == State.SENT


def test_a_server_that_is_slow_at_every_step_cannot_outlast_the_lease(
    user: User, smtp: Sink, settings: Settings
) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "1.5", "CLAIM_LEASE": "2.5"}  # 2 s for the whole conversation
    smtp.script.always = {"EHLO": SLOW, "MAIL": SLOW, "RCPT": SLOW, "DATA": SLOW}
    started = time.monotonic()

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.TRANSPORT_DOWN])
    assert time.monotonic() - started < 2.4


def test_a_silent_server_after_the_payload_leaves_the_outcome_uncertain(
    user: User, smtp: Sink, settings: Settings
) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "0.5"}
    smtp.script.once["BODY"] = deque([HANG])

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.UNCERTAIN])


def test_a_server_that_does_not_listen_is_down(user: User, through: Callable[[str], None]) -> None:
    through("smtp://127.0.0.1:1")

    message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.TRANSPORT_DOWN])
    assert "Connection refused" in message.reason


@pytest.mark.parametrize(("phase", "reply"), [("BODY", CUT), ("RCPT", "451 4.3.0 later")])
def test_the_fallback_never_gets_a_mail_that_the_primary_may_have_accepted(
    user: User, sink: Sink, settings: Settings, phase: Phase, reply: str
) -> None:
    sink.script.once[phase] = deque([reply])
    settings.MAILERS = {"transport": email_url(sink.url), "fallback": email_url("smtp://127.0.0.1:1")}
    message = deliver(outbox.enqueue(Plain(user)))
    assert message.due_at > timezone.now()
    Message.objects.update(due_at=timezone.now())

    assert deliver(message).state == State.SENT
    assert set(message.delivery_attempts.values_list("transport", flat=True)) == {"transport"}


@pytest.mark.parametrize("url", ["smtp://me:p%C3%A4ss@127.0.0.1:{port}", "smtp://smtp..example.com"])
def test_a_broken_configuration_fails_no_message(user: User, through: Callable[[str], None], url: str) -> None:
    with Sink(user="me", password="pass") as sink:
        through(url.format(port=sink.port))
        message = deliver(outbox.enqueue(Plain(user)))

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.TRANSPORT_DOWN])


@pytest.mark.parametrize("reply", ["250 queued as \0", "250 queued as " + "x" * 9000])
def test_an_odd_reply_to_the_payload_is_recorded(user: User, smtp: Sink, reply: str) -> None:
    smtp.script.once["BODY"] = deque([reply])

    message = deliver(outbox.enqueue(Plain(user)))

    assert outcomes(message) == [Outcome.UNCERTAIN if len(reply) > 8000 else Outcome.ACCEPTED]
    assert message.state in (State.SENT, State.RETRYING)


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


def test_a_held_mail_can_be_marked_as_delivered(user: User, smtp: Sink) -> None:
    smtp.script.once["BODY"] = deque([CUT])
    message = deliver(outbox.enqueue(Receipt(user)))

    others = [outbox.enqueue(Plain(user)) for _ in range(3)]
    for other, state in zip(others, (State.FAILED, State.RETRYING, State.EXPIRED), strict=True):
        Message.objects.filter(pk=other.pk).update(state=state)
    assert outbox.mark_as_delivered(Message.objects.all(), reason="found in the server's log") == 1
    message.refresh_from_db()

    assert (message.state, message.reason) == (State.SENT, "found in the server's log")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Broken, "could not be built: TemplateDoesNotExist"),
        (Raising, "could not be built: ZeroDivisionError"),
    ],
)
def test_a_mail_that_cannot_be_built_fails_alone_and_can_be_retried(
    user: User, smtp: Sink, kind: type[Plain], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = outbox.enqueue(kind(user)), outbox.enqueue(Plain(user))
    deliver(broken)
    deliver(other)
    assert (broken.state, other.state) == (State.FAILED, State.SENT)
    assert broken.reason.startswith(reason)
    assert broken.attempts == 0

    monkeypatch.setattr(kind, "template", Plain.template)
    monkeypatch.setattr(kind, "context", Plain.context)
    outbox.retry(Message.objects.filter(pk=broken.pk), reason="mended")

    assert deliver(broken).state == State.SENT


@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_database_that_is_away_while_a_mail_is_built_fails_no_message(
    user: User, smtp: Sink, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(mail: Plain) -> dict[str, Any]:
        raise error("the connection is closed")

    monkeypatch.setattr(Raising, "context", ask)
    message = outbox.enqueue(Raising(user))

    with pytest.raises(error):
        pipeline.deliver(message.pk)

    message.refresh_from_db()
    assert (message.state, message.attempts) == (State.QUEUED, 0)


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


def test_nothing_is_sent_after_its_deadline(user: User, smtp: Sink) -> None:
    assert deliver(outbox.enqueue(Fleeting(user))).state == State.EXPIRED
    assert smtp.received == []


def test_a_worker_skips_a_kind_that_only_newer_code_knows(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(kind="accounts.FromTomorrow")

    assert deliver(message).state == State.QUEUED


def test_an_abandoned_claim_is_settled_as_uncertain_and_retried(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    claim_row(message)
    assert sweep.settle_abandoned() == 0

    Message.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    assert sweep.settle_abandoned() == 1

    message.refresh_from_db()
    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.UNCERTAIN])
    Message.objects.update(due_at=timezone.now())
    assert deliver(message).state == State.SENT


@pytest.mark.django_db(transaction=True)  # a sweep has no outer transaction
def test_an_abandoned_message_of_an_unknown_kind_does_not_block_others(user: User) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(2)]
    for message in messages:
        claim_row(message)
    Message.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    Message.objects.filter(pk=messages[0].pk).update(kind="accounts.FromTomorrow")

    assert sweep.settle_abandoned() == 1
    unknown, known = (Message.objects.get(pk=message.pk) for message in messages)
    assert (unknown.state, outcomes(unknown)) == (State.SENDING, [Outcome.PENDING])
    assert known.state == State.RETRYING


def test_suppression_ignores_case(user: User, smtp: Sink) -> None:
    Suppression.objects.create(address="ann@example.com", reason="550")
    User.objects.update(email="Ann@Example.com")

    assert deliver(outbox.enqueue(Plain(User.objects.get()))).state == State.SUPPRESSED


def test_one_of_two_workers_gets_the_claim(user: User) -> None:
    message = outbox.enqueue(Plain(user))
    mine, theirs = Message.objects.get(pk=message.pk), Message.objects.get(pk=message.pk)
    prepared = prepare(message)

    assert [claim.claim_row(mine, prepared), claim.claim_row(theirs, prepared)] == [True, False]


def test_a_worker_that_was_overtaken_does_not_claim(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    slow = Message.objects.get(pk=message.pk)
    prepared = prepare(slow)

    smtp.script.once["CONNECT"] = deque(["421 4.3.2 later"])
    assert deliver(message).state == State.RETRYING
    assert message.due_at <= timezone.now()  # but it has another attempt by now

    assert not claim.claim_row(slow, prepared)
    assert outcomes(message) == [Outcome.TRANSPORT_DOWN]


def test_a_message_that_is_not_due_cannot_be_claimed(user: User) -> None:
    message = outbox.enqueue(Plain(user), delay=timedelta(minutes=1))
    prepared = prepare(message)

    assert not claim.claim_row(message, prepared)


class Overtaking(Plain):
    """A second worker delivers it while the first one asks whether it is wanted."""

    is_overtaken: ClassVar = False

    def is_wanted(self) -> bool:
        if type(self).is_overtaken:
            return True
        type(self).is_overtaken = True
        pipeline.deliver(Message.objects.get().pk)
        return False


def test_a_worker_that_was_overtaken_does_not_settle(user: User, smtp: Sink) -> None:
    smtp.script.once["RCPT"] = deque(["451 4.3.0 later"])

    message = deliver(outbox.enqueue(Overtaking(user)))

    assert (message.state, outcomes(message)) == (State.RETRYING, [Outcome.REFUSED_FOR_NOW])


def claimed_and_abandoned(user: User) -> Message:
    """Return a message whose lease has run out and whose claim was settled by the sweep."""
    message = outbox.enqueue(Plain(user))
    claim_row(message)
    Message.objects.filter(pk=message.pk).update(claimed_until=timezone.now() - timedelta(seconds=1))
    assert sweep.settle_abandoned() == 1
    return message


def test_a_worker_that_comes_back_late_does_not_overwrite_a_newer_outcome(user: User, smtp: Sink) -> None:
    late = claimed_and_abandoned(user)
    assert deliver_now(Message.objects.get(pk=late.pk)).state == State.SENT

    settle(late, PermanentRefusal("550", "no"))

    message = Message.objects.get(pk=late.pk)
    assert message.state == State.SENT
    assert outcomes(message) == [Outcome.REFUSED_FOR_GOOD, Outcome.ACCEPTED]


@pytest.mark.parametrize("meanwhile", ["nothing", "failed", "retried by a person", "retried and refused"])
def test_a_late_acceptance_settles_the_message(user: User, smtp: Sink, meanwhile: str) -> None:
    late = claimed_and_abandoned(user)
    if meanwhile == "retried and refused":
        smtp.script.once["RCPT"] = deque(["451 4.3.0 later"])
        assert deliver_now(Message.objects.get(pk=late.pk)).state == State.RETRYING
    elif meanwhile != "nothing":
        Message.objects.filter(pk=late.pk).update(state=State.FAILED)
    if meanwhile == "retried by a person":
        outbox.retry(Message.objects.filter(pk=late.pk), reason="again")

    settle(late, Accepted("250", "ok"))

    message = Message.objects.get(pk=late.pk)
    assert (message.state, outcomes(message)[0]) == (State.SENT, Outcome.ACCEPTED)
    assert deliver_now(message).state == State.SENT
    assert smtp.received == []


def test_after_a_late_acceptance_a_refused_copy_is_not_retried(user: User, smtp: Sink) -> None:
    late = claimed_and_abandoned(user)
    second = Message.objects.get(pk=make_due(late).pk)
    claim_row(second)

    settle(late, Accepted("250", "ok"))
    assert Message.objects.get(pk=late.pk).state == State.SENDING
    settle(second, TransientRefusal("451", "later"))

    message = Message.objects.get(pk=late.pk)
    assert message.state == State.SENT
    assert "an earlier attempt was accepted; answer to the last one" in message.reason


def test_a_late_sweep_does_not_overwrite_the_servers_answer(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    stale = deliver(message)
    assert stale.state == State.SENT
    settle(stale, OutcomeUnknown("the worker stopped responding"))

    message.refresh_from_db()
    assert (message.state, outcomes(message)) == (State.SENT, [Outcome.ACCEPTED])


def test_a_mail_can_be_cancelled_until_it_is_sent(user: User, smtp: Sink) -> None:
    waiting, gone = outbox.enqueue(Plain(user)), deliver(outbox.enqueue(Plain(user)))

    assert outbox.cancel(waiting)
    assert not outbox.cancel(gone)
    assert deliver(waiting).state == State.CANCELLED


def test_without_a_mail_server_tests_find_mail_in_djangos_outbox(user: User) -> None:
    deliver(outbox.enqueue(Plain(user)))

    assert [m.to for m in mail.outbox] == [["Ann <ann@example.com>"]]


def test_a_worker_skips_a_field_that_only_newer_code_knows(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(arguments={"account": user.pk, "sent_by": "x", "new_field": 1})

    assert deliver(message).state == State.QUEUED
    assert smtp.received == []


def test_a_message_that_the_backend_did_not_send_fails(user: User, smtp: Sink, settings: Settings) -> None:
    settings.MAILERS["transport"]["OPTIONS"]["fail_silently"] = True
    smtp.script.always["MAIL"] = "451 4.3.0 later"

    message = deliver(outbox.enqueue(Plain(user)))

    assert message.state == State.FAILED
    assert "did not send it" in message.reason


def test_a_lone_surrogate_in_an_error_is_replaced(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mailer.delivery")  # a parallel run of pytest cannot transfer such a line

    def fail(mail: Plain) -> dict[str, Any]:
        raise LookupError("no file caf\udce9.pdf")  # a name as os.listdir() returns it

    monkeypatch.setattr(Raising, "context", fail)

    message = deliver(outbox.enqueue(Raising(user)))

    assert message.state == State.FAILED
    assert "no file caf?.pdf" in message.reason
