"""What a commit and a sweep publish: a few tasks, whatever the number of messages. Rows 8 and 9 of issue 14."""

import base64
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import transaction
from django.db.models.functions import Now
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import User
from mailer import outbox
from mailer.delivery import broker as publishing
from mailer.delivery import pipeline, sweep
from mailer.delivery import prepare as preparing
from mailer.models import Message, Queue
from tests.mailer.kinds import Bulletin, Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def published(broker: redis.Redis, queue: str = "default") -> list[tuple[str, Any]]:
    """The tasks in a queue with their argument, the oldest first."""
    entries: Any = broker.lrange(queue, 0, -1)
    tasks = [json.loads(entry) for entry in reversed(entries)]
    return [(task["headers"]["task"], json.loads(base64.b64decode(task["body"]))[0][0]) for task in tasks]


def commands(broker: redis.Redis, action: Callable[[], object]) -> int:
    """Return the number of commands that the broker got from an action."""
    before: Any = broker.info("stats")
    action()
    after: Any = broker.info("stats")
    return int(after["total_commands_processed"] - before["total_commands_processed"])


def test_a_single_mail_has_a_task_of_its_own(user: User, broker: redis.Redis) -> None:
    message = outbox.enqueue(Plain(user))

    assert published(broker) == [(publishing.DELIVER_TASK, message.pk)]


@pytest.mark.parametrize("number", [2, 3, 40])
def test_a_commit_publishes_two_tasks_for_each_queue(user: User, broker: redis.Redis, number: int) -> None:
    with transaction.atomic():
        first = [outbox.enqueue(kind(user)).pk for _ in range(number) for kind in (Plain, Bulletin)][:2]
        assert published(broker) == []

    for queue, pk in zip(("default", "bulk"), first, strict=True):
        assert published(broker, queue) == [(publishing.DELIVER_TASK, pk), (publishing.KICK_TASK, queue)]


def test_the_round_trips_of_a_commit_do_not_grow(user: User, broker: redis.Redis) -> None:
    outbox.enqueue(Plain(user))  # connects

    def commit(number: int) -> None:
        with transaction.atomic():
            for _ in range(number):
                outbox.enqueue(Plain(user))

    few = commands(broker, lambda: commit(2))
    assert commands(broker, lambda: commit(60)) <= few + 1  # a health check of the connection may come between


def test_two_commits_publish_for_themselves(user: User, broker: redis.Redis) -> None:
    first, second = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))

    assert published(broker) == [(publishing.DELIVER_TASK, each.pk) for each in (first, second)]


def test_many_at_once_need_one_kick_for_each_queue(user: User, broker: redis.Redis) -> None:
    outbox.enqueue_many([Plain(user) for _ in range(30)] + [Bulletin(user) for _ in range(30)])

    assert published(broker) == [(publishing.KICK_TASK, "default")]
    assert published(broker, "bulk") == [(publishing.KICK_TASK, "bulk")]


def test_mail_that_is_due_soon_has_a_countdown_and_later_mail_waits_in_the_database(
    user: User, broker: redis.Redis
) -> None:
    with transaction.atomic():
        soon = outbox.enqueue(Plain(user), delay=timedelta(seconds=20))
        for _ in range(5):
            outbox.enqueue(Plain(user), delay=timedelta(seconds=20))
            outbox.enqueue(Plain(user), delay=timedelta(hours=2))

    assert published(broker) == [(publishing.DELIVER_TASK, soon.pk), (publishing.KICK_TASK, "default")]
    assert all("eta" in json.loads(entry)["headers"] for entry in broker.lrange("default", 0, -1))


class _RolledBack(Exception):
    pass


Node = tuple[bool, list[Any]]
SAVEPOINTS: st.SearchStrategy[Node] = st.recursive(
    st.just("mail"), lambda inner: st.tuples(st.booleans(), st.lists(inner, max_size=4)), max_leaves=12
).map(lambda tree: (True, [tree]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=SAVEPOINTS)
def test_savepoints_that_roll_back_take_their_tasks_with_them(user: User, broker: redis.Redis, tree: Node) -> None:
    """What stays in the database is in the hand-over: the first mail has its task, and the others a kick."""
    broker.flushall()
    Message.objects.all().delete()

    def run(node: Any) -> None:
        if node == "mail":
            outbox.enqueue(Plain(user))
            return
        commits, inside = node
        with contextlib.suppress(_RolledBack), transaction.atomic():
            for each in inside:
                run(each)
            if not commits:
                raise _RolledBack

    run(tree)

    kept = list(Message.objects.order_by("pk").values_list("pk", flat=True))
    expected: list[tuple[str, Any]] = [(publishing.DELIVER_TASK, pk) for pk in kept[:1]]
    if len(kept) > 1:
        expected.append((publishing.KICK_TASK, "default"))
    assert published(broker) == expected


# What a sweep publishes.


def overdue(user: User, number: int, kind: type[Plain] = Plain) -> None:
    rows = [
        Message(kind=kind.kind, arguments={"account": user.pk}, recipient=user.email, queue=kind.queue)
        for _ in range(number)
    ]
    Message.objects.bulk_create(rows)
    Message.objects.update(due_at=Now() - sweep.HAND_OVER)


def test_a_sweep_kicks_each_queue_once_whatever_is_due(user: User, broker: redis.Redis) -> None:
    overdue(user, 300)
    overdue(user, 30, Bulletin)

    assert [sweep.kick_queues(), sweep.kick_queues()] == [2, 0]

    assert published(broker) == [(publishing.KICK_TASK, "default")]
    assert published(broker, "bulk") == [(publishing.KICK_TASK, "bulk")]
    assert published(broker, "critical") == []


def test_the_round_trips_of_a_sweep_do_not_grow(user: User, broker: redis.Redis) -> None:
    overdue(user, 1)
    sweep.kick_queues()  # connects
    broker.flushall()
    few = commands(broker, sweep.kick_queues)
    overdue(user, 400)
    broker.flushall()

    assert commands(broker, sweep.kick_queues) <= few + 1
    assert len(published(broker)) == 1


def test_mail_that_is_due_since_a_moment_is_left_to_its_own_task(user: User, broker: redis.Redis) -> None:
    overdue(user, 3)
    Message.objects.update(due_at=Now())

    assert sweep.kick_queues() == 0


def test_a_kick_goes_on_for_a_bounded_time_and_leaves_one_kick_behind(
    user: User, smtp: Sink, broker: redis.Redis
) -> None:
    overdue(user, 200)

    def more() -> None:
        publishing.kick_if_idle("default")

    tried = pipeline.deliver_due(["default"], seconds=0.2, on_more=more)

    assert 1 <= tried < 200
    assert published(broker) == [(publishing.KICK_TASK, "default")]
    while left := pipeline.deliver_due(["default"], on_more=lambda: None):
        tried += left
    assert (tried, len(smtp.received)) == (200, 200)


def test_critical_mail_overtakes_in_a_running_kick(
    user: User, smtp: Sink, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue(user, 5, Bulletin)
    late: list[Message] = []

    def build(message: Message, *_: Any) -> Any:
        if not late:
            late.append(outbox.enqueue(Plain(user)))
            Message.objects.filter(pk=late[0].pk).update(queue=Queue.CRITICAL)
        return prepare(message)

    prepare = preparing.prepare
    monkeypatch.setattr(pipeline, "prepare", build)
    monkeypatch.setattr(pipeline, "TURN", 0.0)
    pipeline.deliver_due(list(Queue))

    sent = Message.objects.order_by("delivery_attempts__started_at").values_list("queue", flat=True)
    assert list(sent) == ["bulk", "critical", "bulk", "bulk", "bulk", "bulk"]
    assert Counter(Message.objects.values_list("state", flat=True)) == {"sent": 6}
