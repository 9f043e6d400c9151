"""A user of the real Valkey that lacks one permission: which rule is named, and what works without it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest
import redis
from celery import current_app
from django.core.checks import CheckMessage
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from config.environment import redis_url
from mailer import permissions, restricted
from mailer.checks.broker import check_broker
from mailer.models import Queue
from tests.redis_user import CONTROL, WORKING, permit, url
from tests.servers import Valkey

Connect = Callable[..., Any]
EXPIRING = kombu.Queue(
    "ann.celery.pidbox", kombu.Exchange("celery.pidbox", type="fanout"), expires=10, auto_delete=True
)
"""As a worker's queue for remote control."""


@pytest.fixture
def connect(broker: redis.Redis, valkey: Valkey) -> Iterator[Connect]:
    """Return a function that gives the user these rules, and connects as that user."""
    opened: list[kombu.Connection] = []

    def connect(*rules: str, options: str = "", **more: Any) -> kombu.Connection:
        permit(broker, *rules)
        found = redis_url(url(valkey, options))
        connection = kombu.Connection(found.url, transport_options={"max_retries": 0} | found.transport_options | more)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.release()
    broker.acl_deluser("shop")


def without(rule: str, rules: list[str]) -> list[str]:
    """Return the rules without one. A key of line 2 may have the same name as one of line 1."""
    return [each for each in rules if each != rule]


def test_the_rules_of_the_page_are_enough(connect: Connect) -> None:
    channel = connect(*WORKING, *CONTROL).default_channel

    assert permissions.needed(channel, Queue.values) == []
    assert permissions.optional(channel) == []


@pytest.mark.parametrize("rule", [rule for rule in WORKING if rule not in ("~unacked*", "+ping")])
def test_a_worker_needs_each_rule_of_the_first_line(connect: Connect, rule: str) -> None:
    assert permissions.needed(connect(*without(rule, WORKING)).default_channel, Queue.values) == [rule]


@pytest.mark.parametrize("rule", CONTROL)
def test_remote_control_needs_each_rule_of_the_second_line(connect: Connect, rule: str) -> None:
    channel = connect(*WORKING, *without(rule, CONTROL)).default_channel

    assert permissions.needed(channel, Queue.values) == []
    assert permissions.optional(channel) == [rule]


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (["+@all", "~*", "-@transaction"], "+watch +unwatch +exec +discard +multi"),
        (["+@all", "~*", "-@blocking"], "+brpop"),
        (["+@all", "~*", "-@admin", "-@dangerous", "-@scripting", "resetchannels"], ""),
        (
            ["+@all", "&*", "~default*"],
            "~unacked ~critical* ~bulk* ~_kombu.* ~unacked_index ~unacked_mutex ~mailer.malformed",
        ),
    ],
    ids=["transactions", "blocking", "what nobody needs", "keys"],
)
def test_groups_of_rules_are_named_one_by_one(connect: Connect, rules: list[str], missing: str) -> None:
    assert permissions.needed(connect(*rules).default_channel, Queue.values) == missing.split()


def test_asking_changes_nothing_and_leaves_the_connection_usable(connect: Connect, broker: redis.Redis) -> None:
    broker.lpush("default", "a task")
    connection = connect(*WORKING, *CONTROL, "-lpush")
    for _ in range(12):  # more than connections of a pool
        assert permissions.needed(connection.default_channel, Queue.values) == ["+lpush"]

    assert broker.keys() == [b"default"]
    assert broker.lrange("default", 0, -1) == [b"a task"]
    assert connection.default_channel.queue_declare("default", passive=True).message_count == 1


def test_a_user_without_discard_leaves_no_transaction_open(connect: Connect, broker: redis.Redis) -> None:
    channel = connect(*WORKING, *CONTROL, "-discard").default_channel

    assert permissions.needed(channel, Queue.values) == ["+discard"]
    with channel.conn_or_acquire() as client:
        assert client.lpush("default", "a task") == 1
    assert broker.llen("default") == 1


def test_a_worker_does_not_connect_until_it_may_work(connect: Connect, broker: redis.Redis) -> None:
    options = {restricted.CONSUMES_FROM: ["default"]}
    with pytest.raises(permissions.Refused, match=r"may not do what a worker does. Add to its ACL: \+zadd$"):
        connect(*WORKING, "-zadd", **options).transport.establish_connection()

    connect(*WORKING, **options).connect()


@pytest.mark.parametrize(
    "rules",
    [["+@all", "~*", "&*", "-@scripting"], ["+@all", "~*", "resetchannels"], ["+@all", "~*", "&*", "-time"], WORKING],
    ids=["scripts", "channels", "a command in a script", "only the first line"],
)
def test_remote_control_and_events_are_done_without_and_it_is_said_once(connect: Connect, rules: list[str]) -> None:
    restricted._tell.cache_clear()
    channel = connect(*rules).default_channel
    channel.brpop_timeout = 0.1
    with capture_logs() as lines:
        for _ in range(3):
            consumer = kombu.Consumer(channel, [EXPIRING], callbacks=[lambda body, message: None])
            consumer.consume()
            channel.connection.cycle.on_poll_start()
            channel._receive()
            channel.maybe_refresh_binding_expiry()
            channel.qos.restore_visible()
            kombu.Producer(channel, EXPIRING.exchange).publish({}, serializer="json")
            consumer.cancel()

    told = [str(line["reason"]) for line in lines]
    assert told
    assert len(told) == len(set(told))
    assert {line["event"] for line in lines} == {
        "Redis refuses what remote control and Flower need; `check --deploy` names the rules"
    }


@pytest.mark.parametrize("rule", ["-llen", "-sadd"])
def test_what_a_queue_needs_is_not_done_without(connect: Connect, rule: str) -> None:
    channel = connect(*WORKING, rule).default_channel

    with pytest.raises(ResponseError, match="permissions"):
        kombu.Queue("default", kombu.Exchange("default"))(channel).declare()


def test_all_keys_and_channels_can_begin_with_a_name(connect: Connect, broker: redis.Redis) -> None:
    named = [f"{rule[0]}shop:{rule[1:]}" if rule[0] in "~&" else rule for rule in (*WORKING, *CONTROL)]
    channel = connect(*named, options="?global_keyprefix=shop:").default_channel

    assert permissions.needed(channel, Queue.values) == permissions.optional(channel) == []
    kombu.Producer(channel).publish({}, routing_key="default", declare=[kombu.Queue("default")], serializer="json")
    assert channel.queue_declare("default", passive=True).message_count == 1
    assert json.loads(broker.lrange("shop:default", 0, -1)[0])["headers"] == {}


def checked(connection: kombu.Connection, monkeypatch: pytest.MonkeyPatch) -> list[CheckMessage]:
    monkeypatch.setattr(current_app, "connection_for_read", lambda **_: connection)
    return check_broker(None)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([*WORKING, *CONTROL], None),
        ([*WORKING, *CONTROL, "-zadd", "-hset"], ("mailer.E019", "Add to its ACL: +hset +zadd")),
        (WORKING, ("mailer.W008", "lacks +publish +psubscribe")),
        ([*WORKING, *CONTROL, "resetchannels"], ("mailer.W008", "lacks &/0.celery.pidbox &/0.celeryev/*")),
        ([*WORKING, *CONTROL, "-ping"], ("mailer.E019", "'ping'")),
    ],
    ids=["everything", "a command", "remote control", "channels", "what connecting needs"],
)
def test_the_check_names_the_rules(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, rules: list[str], found: tuple[str, str] | None
) -> None:
    messages = checked(connect(*rules), monkeypatch)

    assert [message.id for message in messages] == ([found[0]] if found else [])
    assert not found or found[1] in messages[0].msg


def test_the_check_says_that_the_broker_was_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    away = kombu.Connection("redis://127.0.0.1:1", transport_options={"max_retries": 0})

    [message] = checked(away, monkeypatch)

    assert message.id == "mailer.W009"
    assert "secret" not in message.msg


def test_a_broker_that_is_no_redis_has_no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(kombu.Connection("memory://"), monkeypatch) == []
