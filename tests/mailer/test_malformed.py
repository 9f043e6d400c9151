"""Items in the broker's queues that are not tasks, and the worker that meets them."""

import copy
import json
import random
from base64 import b64encode
from contextlib import suppress
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from mailer import outbox
from mailer.malformed import ASIDE, KEPT, Malformed, check
from tests.environment import new_directory
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink
from tests.stack import Stack

QUEUES = ("critical", "default", "bulk")
VALID: dict[str, Any] = {
    "body": b64encode(json.dumps([[1], {}, {"callbacks": None}]).encode()).decode(),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {
        "task": "mailer.tasks.deliver_message",
        "id": "4f52f4d0-5c20-4c3f-aaa0-238966f07d81",
        "retries": 0,
        "eta": "2026-11-27T15:10:07+00:00",
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": "(1,)",
    },
    "properties": {
        "body_encoding": "base64",
        "delivery_tag": "3473e49a",
        "priority": 3,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "default"},
    },
}
"""A task as Celery puts it into a queue."""
PLACES = [(), ("body",), ("content-type",), ("headers",), ("properties",)] + [
    (part, name) for part in ("headers", "properties") for name in VALID[part]
]
ODD = ["", "x", 5, -1.5, True, None, [], {}, ["a", {}], {"a": 1}, "2026", "9" * 50]


def changed(place: tuple[str, ...], value: Any) -> Any:
    """Return VALID with another value at one place."""
    if not place:
        return value
    item: Any = copy.deepcopy(VALID)
    *above, last = place
    within = item
    for name in above:
        within = within[name]
    within[last] = value
    return item


def raw_items(number: int) -> list[str]:
    """Return items of every kind that ended a worker once, and random ones of the same kinds."""
    dice = random.Random(20261127)
    bodies: list[Any] = [5, "", None, "!", b64encode(b"{").decode()]
    headers: list[Any] = [[], None, "x", {}]
    limits: list[Any] = [["a", {}], "x", [1], [-1, 2]]
    times: list[Any] = ["soon", 5, []]
    samples = [
        *("5", '""', "[]", "{}", "not JSON", "", '{"a"', '{"__type__": "uuid", "__value__": "x"}'),
        *(json.dumps(changed(("body",), body)) for body in bodies),
        *(json.dumps(changed(("headers",), header)) for header in headers),
        *(json.dumps(changed(("headers", "timelimit"), limit)) for limit in limits),
        *(json.dumps(changed(("headers", "eta"), eta)) for eta in times),
    ]
    while len(samples) < number:
        item = changed(dice.choice(PLACES), dice.choice(ODD))
        samples.append(json.dumps(item)[: dice.choice([None, 40])])
    return samples


def test_a_task_passes() -> None:
    check(VALID, is_task=True)


@pytest.mark.django_db(transaction=True)
def test_a_published_task_passes(user: User, broker: redis.Redis) -> None:
    outbox.enqueue(Plain(user))
    keys: Any = broker.keys("default*")
    [item] = [json.loads(entry) for key in keys for entry in broker.lrange(key, 0, -1)]

    check(item, is_task=True)


WRONG: dict[tuple[str, ...], list[Any]] = {
    (): [5, "", None, [], True],
    ("body",): [None, "", "!", 5, [], b64encode(b'{"a"').decode(), b64encode(b"5").decode()],
    ("headers",): [None, [], "x", {}],
    ("headers", "task"): [None, 5, []],
    ("headers", "timelimit"): [["a", {}], [1], "ab", [-1, None], {"a": 1}, [1e300, 1]],
    ("headers", "eta"): [5, "soon", [], "0001-01-01"],
    ("headers", "expires"): [5, "soon", [], "0001-01-01"],
    ("headers", "argsrepr"): [5],
    ("headers", "retries"): ["many"],
    ("properties",): [None, [], "x", {}],
    ("properties", "delivery_tag"): [None],
    ("properties", "delivery_info"): [[], {}, {"exchange": ""}, {"exchange": [], "routing_key": "default"}],
    ("properties", "priority"): ["x"],
    ("content-type",): ["application/x-python-serialize"],
    ("content-encoding",): ["utf-16"],
}


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in WRONG.items() for value in values])
def test_an_item_that_is_not_a_task_is_malformed(place: tuple[str, ...], value: Any) -> None:
    with pytest.raises(Malformed):
        check(changed(place, value), is_task=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_json_is_checked_without_another_error(item: Any) -> None:
    with pytest.raises(Malformed):
        check(item, is_task=True)


@given(place=st.sampled_from(PLACES), value=st.sampled_from(ODD))
def test_a_task_with_any_part_exchanged_passes_or_is_malformed(place: tuple[str, ...], value: Any) -> None:
    with suppress(Malformed):
        check(changed(place, value), is_task=True)


UNREADABLE = ["[" * 300_000, '{"__type__": "decimal", "__value__": "x"}']
DROPPED = "malformed item dropped from a queue"


@pytest.mark.timeout(120)  # a whole installation starts
def test_a_worker_survives_malformed_items_and_sends_the_mail_after_them(sink: Sink) -> None:
    """Those that its remote control could not read, and fifty in its queues."""
    with Stack(new_directory("malformed"), sink) as stack:
        client = stack.valkey.client()
        stack.start("worker", "beat")
        before = stack.children("worker")
        for number, item in enumerate(UNREADABLE, start=1):
            assert client.publish("/0.celery.pidbox", item) == 1
            stack.wait_for(lambda: stack.log("worker").count(DROPPED) == number, "the dropped item")  # noqa: B023
        for number, item in enumerate(raw_items(50)):
            client.lpush(QUEUES[number % 3], item)
        stack.manage("send_test_email", "ann@example.com")
        stack.wait_for(lambda: len(sink.received) == 1, "the mail behind them")
        stack.wait_for(lambda: not any(client.llen(queue) for queue in QUEUES), "empty queues")

        assert stack.children("worker") == before
        assert 10 < client.llen(ASIDE) <= KEPT
        assert client.hlen("unacked") == 0
        assert "malformed item moved to the list" in stack.log("worker")
        assert "Unrecoverable error" not in stack.log("worker")
