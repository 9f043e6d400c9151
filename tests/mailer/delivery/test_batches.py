"""Messages that one worker reserves at once: none waits for another one, and none is blamed for another one."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from typing import Any, ClassVar

import pytest
from django.core.mail import send_mail
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import EmailVerification, User
from mailer import outbox
from mailer.delivery import pipeline, references, reserve
from mailer.delivery import prepare as preparing
from mailer.delivery.heartbeat import heartbeat
from mailer.email import Email, Recipient
from mailer.models import DeliveryAttempt, Message, Queue, State, Taken
from mailer.signals import message_settled
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.mailer.worker import another_host, die
from tests.servers import wait_until
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def a_turn_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine is doing, a batch is done in its turn."""
    monkeypatch.setattr(pipeline, "TURN", 60.0)


@pytest.fixture
def users() -> list[User]:
    return User.objects.bulk_create(User(email=f"ann{each}@example.com", password="!") for each in range(6))


def take(limit: int = 10) -> list[int]:
    """Reserve messages as a worker of its own."""
    another_host("web-2")
    return [each.message.pk for each in reserve.reserve_next(list(Queue), [""], limit)]


def enqueue(users: list[User]) -> list[int]:
    return [outbox.enqueue(Plain(each)).pk for each in users]


def test_messages_are_taken_in_the_order_in_which_they_are_due(users: list[User]) -> None:
    ids = enqueue(users)

    assert (take(4), take(4)) == (ids[:4], ids[4:])


@pytest.mark.parametrize("harmful", range(6))
def test_a_message_that_ends_its_workers_does_not_take_others_with_it(
    users: list[User], smtp: Sink, monkeypatch: pytest.MonkeyPatch, harmful: int
) -> None:
    ids, prepare = enqueue(users), preparing.prepare

    def kill(message: Message, *_: Any) -> Any:
        if message.pk == ids[harmful]:
            die()
            raise SystemExit
        return prepare(message)

    monkeypatch.setattr(pipeline, "prepare", kill)
    for _ in range(reserve.QUARANTINE):
        with pytest.raises(SystemExit):
            pipeline.deliver_due(list(Queue))
    pipeline.deliver_due(list(Queue))

    states = dict(Message.objects.values_list("pk", "state"))
    assert states.pop(ids[harmful]) == State.HELD
    assert Counter(states.values()) == {State.SENT: 5}
    assert len(smtp.received) == 5


def test_what_a_dead_worker_left_behind_is_taken_alone(users: list[User]) -> None:
    ids = enqueue(users)
    assert take(3) == ids[:3]
    die()

    assert [take() for _ in range(4)] == [[ids[0]], [ids[1]], [ids[2]], ids[3:]]


def test_mail_behind_a_message_that_takes_long_goes_to_others(
    users: list[User], smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, prepare = enqueue(users), preparing.prepare
    begun, goes_on = threading.Event(), threading.Event()

    def hang(message: Message, *_: Any) -> Any:
        begun.set()
        assert goes_on.wait(10)
        return prepare(message)

    monkeypatch.setattr(pipeline, "prepare", hang)
    monkeypatch.setattr(reserve, "LONGEST_TURN", 0.0)

    def deliver() -> None:
        pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))
        connection.close()

    slow = threading.Thread(target=deliver)
    slow.start()
    assert begun.wait(10)
    assert heartbeat.in_hand() == ids

    reserve.give_back_dropped()  # as the housekeeping does every two seconds
    me = heartbeat.worker
    assert take() == ids[1:]
    heartbeat.worker = me
    goes_on.set()
    slow.join()

    wait_until(lambda: Message.objects.get(pk=ids[0]).state == State.SENT, "the slow one")
    assert [len(smtp.received), Message.objects.filter(state=State.QUEUED).exclude(worker=me).count()] == [1, 5]


def test_the_rest_of_a_turn_is_free_for_all(users: list[User], smtp: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = enqueue(users)
    monkeypatch.setattr(pipeline, "TURN", 0.0)

    results = pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))

    assert ([result.said for result in results], heartbeat.in_hand()) == (["sent 250"], [])
    assert take() == ids[1:]


def test_a_worker_that_must_stop_puts_the_rest_back(users: list[User], smtp: Sink) -> None:
    ids = enqueue(users)

    results = pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6), must_stop=lambda: True)

    assert ([result.said for result in results], take()) == (["sent 250"], ids[1:])


def test_a_server_that_is_away_is_asked_once_for_a_batch(users: list[User], smtp: Sink) -> None:
    ids = enqueue(users)

    with smtp.away():
        results = pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))

    assert ([result.must_wait for result in results], take()) == ([True], ids)


def test_a_batch_that_is_dropped_before_its_first_turn_is_free_again(
    users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = enqueue(users)

    def fail(_: Any) -> None:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(references, "load", fail)
    with pytest.raises(OperationalError):
        pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))
    reserve.give_back_dropped()

    assert (heartbeat.in_hand(), take()) == ([], ids)


def test_a_batch_grows_while_the_server_is_quick(
    users: list[User], smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(users)
    sizes: list[int] = []

    def note(batch: Sequence[reserve.Reserved], *rest: Any) -> Any:
        sizes.append(len(batch))
        return deliver_batch(batch, *rest)

    deliver_batch = pipeline._deliver_batch
    monkeypatch.setattr(pipeline, "_deliver_batch", note)
    pipeline.deliver_due(list(Queue))
    assert sizes == [1, 2, 3]

    enqueue(users)
    sizes.clear()
    monkeypatch.setattr(pipeline, "TURN", 0.0)
    pipeline.deliver_due(list(Queue))
    assert max(sizes) == 2


def test_no_thread_takes_what_another_one_is_about_to_have_in_hand(users: list[User], smtp: Sink) -> None:
    enqueue(users * 8)
    heartbeat.beat()

    def drain() -> int:
        try:
            return pipeline.deliver_due(list(Queue), seconds=60)
        finally:
            connection.close()

    tried, failures = at_once([drain] * 4)

    assert (sum(tried), failures, len(smtp.received)) == (48, [], 48)


def test_what_a_batch_refers_to_is_loaded_at_once_and_each_row_is_one_messages_own(users: list[User]) -> None:
    enqueue([*users, users[0]])
    messages = list(Message.objects.order_by("pk"))

    with CaptureQueriesContext(connection) as captured:
        rows = references.load(messages)
    assert (len(captured), len(rows)) == (1, 6)

    mails = [Plain.load(message.arguments, rows) for message in messages]
    assert [mail.account.email for mail in mails] == [message.recipient for message in messages]
    assert mails[0].account is not mails[-1].account


def test_a_message_with_a_key_is_loaded_when_it_is_prepared(users: list[User]) -> None:
    """`enqueue` may just have returned it to a transaction that changed what it refers to."""
    for user in users:
        outbox.enqueue(Plain(user), key=user.email)

    assert references.load(Message.objects.all()) == {}


def test_rows_with_files_are_loaded_one_by_one(user: User) -> None:
    for _ in range(3):
        send_mail("Hi", "text", None, [user.email])

    assert references.load(Message.objects.all()) == {}


def test_what_a_batch_refers_to_and_is_gone_cancels_its_own_message_only(users: list[User], smtp: Sink) -> None:
    enqueue(users)
    User.objects.filter(pk=users[2].pk).delete()

    assert pipeline.deliver_due(list(Queue)) == 6
    assert Counter(Message.objects.values_list("state", flat=True)) == {State.SENT: 5, State.CANCELLED: 1}


def test_a_reference_that_cannot_be_loaded_stops_no_other_message(users: list[User], smtp: Sink) -> None:
    ids = enqueue(users)
    Message.objects.filter(pk=ids[1]).update(arguments={"account": "no number"})
    Message.objects.filter(pk=ids[3]).update(arguments={"account": 10**30})

    assert pipeline.deliver_due(list(Queue)) == 6
    assert Counter(Message.objects.values_list("state", flat=True)) == {
        State.SENT: 4,
        State.QUEUED: 1,
        State.CANCELLED: 1,
    }


@pytest.mark.parametrize("arguments", [{"account": [1]}, {"account": {"pk": 1}}, [1]])
def test_arguments_that_no_row_can_have_stop_no_other_message(users: list[User], smtp: Sink, arguments: object) -> None:
    ids = enqueue(users)
    Message.objects.filter(pk=ids[1]).update(arguments=arguments)

    assert pipeline.deliver_due(list(Queue)) == 6
    assert Counter(Message.objects.values_list("state", flat=True)) == {State.SENT: 5, State.QUEUED: 1}


class Unresolvable(Plain):
    """Its annotation cannot be resolved while it runs, such as one that is imported for a type checker only."""

    order: "NoSuchModel | None" = None  # type: ignore[name-defined]  # noqa: F821


def test_a_kind_whose_annotations_cannot_be_resolved_stops_no_other_message(users: list[User], smtp: Sink) -> None:
    ids = enqueue(users)
    Message.objects.filter(pk=ids[1]).update(kind=Unresolvable.kind)

    assert pipeline.deliver_due(list(Queue)) == 6
    assert Counter(Message.objects.values_list("state", flat=True)) == {State.SENT: 5, State.QUEUED: 1}


def test_what_changed_while_a_message_waited_for_the_rate_limit_counts(
    users: list[User], smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(users)
    monkeypatch.setattr(pipeline, "TURN", 0.1)
    admit = pipeline.admit

    def wait(*reserved: Any) -> Any:
        User.objects.update(is_active=False)
        time.sleep(2 * pipeline.TURN)
        return admit(*reserved)

    monkeypatch.setattr(pipeline, "admit", wait)
    [result] = pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))

    assert (result.said, smtp.received) == (State.CANCELLED, [])


def test_what_a_receiver_changes_counts_for_the_rest_of_the_batch(users: list[User], smtp: Sink) -> None:
    enqueue(users)

    def deactivate(**_: Any) -> None:
        User.objects.filter(pk=users[1].pk).update(is_active=False)

    message_settled.connect(deactivate, sender=Plain)
    try:
        pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))
    finally:
        message_settled.disconnect(deactivate, sender=Plain)

    assert Message.objects.get(user=users[1]).state == State.CANCELLED


@pytest.mark.parametrize(
    "answer",
    ["421 4.7.0 too many messages, slow down", "450 4.7.1 rate limit exceeded", "550 5.7.1 your account is suspended"],
)
def test_the_rest_of_a_batch_waits_with_its_transport(users: list[User], smtp: Sink, answer: str) -> None:
    enqueue(users)
    smtp.script.always["MAIL"] = answer

    results = pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))

    assert (len(results), DeliveryAttempt.objects.count(), heartbeat.in_hand()) == (1, 1, [])
    assert Message.objects.filter(worker=None).count() == 6
    assert reserve.reserve_next(list(Queue), [""], 6)[0].is_any_limited


def test_a_worker_that_stood_still_before_its_turn_delivers_nothing(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    [reserved] = reserve.reserve_next(list(Queue), [""], 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "load", lambda _: heartbeat.let_go(-1.0))
        assert pipeline._deliver_batch([reserved]) == []

    assert smtp.received == []
    reserve.give_back_dropped()
    assert pipeline.deliver(message.pk) == "sent 250"


def test_a_receiver_that_cancels_the_rest_of_the_batch_does_not_stop_the_queue(users: list[User], smtp: Sink) -> None:
    ids = enqueue(users)

    def cancel_the_next(message: Message, **_: Any) -> None:
        if message.pk in ids[:1]:
            outbox.cancel_all(Message.objects.filter(pk__in=ids[2:5]), reason="the first one was enough")

    message_settled.connect(cancel_the_next, sender=Plain)
    try:
        began = time.monotonic()
        results = pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 6))
    finally:
        message_settled.disconnect(cancel_the_next, sender=Plain)

    assert [result.said for result in results] == [
        "sent 250",
        "sent 250",
        *["another worker has it, or it was cancelled"] * 3,
        "sent 250",
    ]
    assert time.monotonic() - began < pipeline.PAUSE
    assert Counter(Message.objects.values_list("state", flat=True)) == {State.SENT: 3, State.CANCELLED: 3}


class Touching(Plain):
    """It changes its user in memory."""

    def is_wanted(self) -> bool:
        self.account.email = "changed@example.com"
        return True


def test_a_kind_that_changes_its_instance_does_not_change_it_for_others(user: User, smtp: Sink) -> None:
    outbox.enqueue(Touching(user))
    other: Email = Plain(user)
    outbox.enqueue(other)

    assert pipeline.deliver_due(list(Queue)) == 2
    assert [received.recipients for received in smtp.received] == [["changed@example.com"], [user.email]]


class Verify(Email):
    """About a row that refers to a user."""

    template: ClassVar = "email/test"
    link: EmailVerification

    def recipient(self) -> Recipient:
        return Recipient(self.link.user.email)


class TouchingVerify(Verify):
    """It changes the user of its row in memory."""

    def is_wanted(self) -> bool:
        self.link.user.email = "changed@example.com"
        return True


def test_a_kind_that_changes_what_its_row_refers_to_does_not_change_it_for_others(user: User, smtp: Sink) -> None:
    links = [EmailVerification.objects.create(user=user, superseded_at=timezone.now()) for _ in range(2)]
    outbox.enqueue(TouchingVerify(links[0]))
    other: Email = Verify(links[1])
    outbox.enqueue(other)

    pipeline._deliver_batch(reserve.reserve_next(list(Queue), [""], 2))

    assert [received.recipients for received in smtp.received] == [["changed@example.com"], [user.email]]


def test_rows_are_loaded_with_those_that_they_refer_to(users: list[User]) -> None:
    for each in users:
        outbox.enqueue(Verify(EmailVerification.objects.create(user=each)))

    with CaptureQueriesContext(connection) as captured:
        rows = references.load(Message.objects.order_by("pk"))
        assert {row.user.email for row in rows.values()} == {each.email for each in users}  # type: ignore[attr-defined]
    assert len(captured) == 2  # the messages, and what they refer to


def test_an_attempt_says_how_the_message_came_to_the_worker(users: list[User], smtp: Sink) -> None:
    ids = enqueue(users[:3])
    pipeline.deliver(ids[0])
    pipeline.deliver_due(list(Queue), taken=Taken.FOUND)
    outbox.enqueue(Plain(users[3]))
    pipeline.deliver_due(list(Queue))
    outbox.enqueue(Plain(users[4]))
    call_command("deliver_due")

    taken = DeliveryAttempt.objects.order_by("pk").values_list("taken", flat=True)
    assert list(taken) == [Taken.TASK, Taken.FOUND, Taken.FOUND, Taken.KICK, Taken.COMMAND]
    said = StringIO()
    call_command("mail_log", str(ids[1]), stdout=said)
    assert "not handed over: the worker found it without the broker" in said.getvalue()
