"""Many messages that a person retries or cancels move in batches, with what each of them is promised."""

import pytest
import redis
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from structlog.testing import capture_logs

from accounts.models import User
from mailer import outbox
from mailer.models import Message, Payload, State
from mailer.signals import message_settled
from tests.mailer.kinds import Bulletin, Plain
from tests.mailer.test_keys import Elsewhere
from tests.servers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def failed(message: Message, **fields: object) -> Message:
    Message.objects.filter(pk=message.pk).update(state=State.FAILED, settled_at=Now(), **fields)
    message.refresh_from_db()
    return message


def queued() -> set[int]:
    return set(Message.objects.filter(state=State.QUEUED, reason="again").values_list("pk", flat=True))


def test_the_number_of_statements_tasks_and_log_lines_does_not_grow_with_the_messages(
    user: User, broker: redis.Redis
) -> None:
    costs = []
    for number in (10, 100):
        Message.objects.all().delete()
        outbox.enqueue_many(Plain(user) for _ in range(number))
        Message.objects.update(state=State.FAILED)
        broker.flushall()
        with (
            CaptureQueriesContext(
                connection,
            ) as queries,
            capture_logs() as lines,
        ):
            assert outbox.retry(Message.objects.all(), reason="again") == number
        costs.append((len(queries), broker.llen("default")))
        [line] = [line for line in lines if line["event"] == "moved to queued"]
        numbers = list(Message.objects.order_by("pk").values_list("pk", flat=True))
        assert (line["messages"], line["first_id"], line["last_id"]) == (number, numbers[0], numbers[-1])

    assert costs[0] == costs[1]
    assert costs[1][1] == 1


def test_each_queue_of_a_batch_gets_a_task(user: User, broker: redis.Redis) -> None:
    for kind in (Plain, Bulletin):
        failed(outbox.enqueue(kind(user)))
        failed(outbox.enqueue(kind(user)))
    broker.flushall()

    assert outbox.retry(Message.objects.all(), reason="again") == 4
    assert [broker.llen(queue) for queue in ("default", "bulk")] == [1, 1]


def test_each_of_a_batch_is_decided_by_its_own_key_body_and_answers(user: User) -> None:
    plain = failed(outbox.enqueue(Plain(user)))
    taken = failed(outbox.enqueue(Plain(user), key="taken"))
    outbox.enqueue(Plain(user), key="taken")
    older = failed(outbox.enqueue(Plain(user), key="twice"))
    newer = failed(outbox.enqueue(Plain(user), key="twice"))
    kept, erased = (
        failed(outbox.enqueue_built(EmailMessage("Hi", "text", None, ["bob@example.com"]))) for _ in range(2)
    )
    Payload.objects.filter(messages=erased).delete()
    answered = failed(outbox.enqueue(Plain(user)), answers={"a@example.com": "accepted", "b@example.com": "refused"})

    assert outbox.retry(Message.objects.all(), reason="again") == 4

    assert queued() - {older.pk, newer.pk} == {plain.pk, kept.pk, answered.pk}
    assert len(queued() & {older.pk, newer.pk}) == 1
    answered.refresh_from_db()
    assert answered.answers == {"a@example.com": "accepted"}
    taken.refresh_from_db()
    assert taken.state == State.FAILED


def test_the_receivers_of_each_cancelled_message_are_called(user: User) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(3)]
    called: list[int] = []

    def receive(message: Message, **_: object) -> None:
        called.append(message.pk)

    message_settled.connect(receive, sender=Plain)
    try:
        assert outbox.cancel_all(Message.objects.all(), reason="not needed") == 3
    finally:
        message_settled.disconnect(receive, sender=Plain)

    assert sorted(called) == [message.pk for message in messages]
    assert not Message.objects.exclude(notify_at=None).exists()


def test_a_message_that_another_transaction_holds_does_not_stop_the_batch(user: User) -> None:
    held, *others = [failed(outbox.enqueue(Plain(user))) for _ in range(3)]
    done: list[int] = []
    with transaction.atomic():
        Message.objects.select_for_update().get(pk=held.pk)
        elsewhere = Elsewhere(lambda: outbox.retry(Message.objects.all(), reason="again", progress=done.append))
        wait_until(lambda: queued() == {other.pk for other in others}, "the others")

    assert elsewhere.join() == 3
    assert done == [3]
