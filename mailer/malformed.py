"""A Redis transport for kombu that puts malformed items of a queue aside, instead of stopping the worker.

Celery and kombu trust every item in the broker: an item that is not a task ends the worker, and kombu may deliver it again to
the next worker, which ends too. Here an item is checked before it is delivered. A malformed item is logged, and kept in a
list of the broker that nothing reads.
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime
from queue import Empty
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import RedisError

from mailer import restricted

log = structlog.get_logger(__name__)

ASIDE = "mailer.malformed"
"""The list of malformed items, the newest first."""
KEPT = 100
"""Items in that list."""

CONTROL = re.compile(r"^celeryev|pidbox$")
"""The queues of Celery's events and of its remote control, whose items are not tasks."""
OPTIONAL_TEXTS = ("argsrepr", "kwargsrepr", "root_id", "parent_id", "group", "shadow", "origin", "lang")


class Malformed(ValueError):
    """An item that is not a Celery message. The text is the reason, and quotes nothing from the item."""


def check(item: Any, *, is_task: bool) -> None:
    """Check the shape of one item (Celery's message protocol, version 2). Raises Malformed."""
    if not isinstance(item, dict):
        raise Malformed("it is not an object")
    properties, headers = item.get("properties"), item.get("headers")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        raise Malformed("it has no delivery tag")
    route = properties.get("delivery_info")
    if not isinstance(route, dict) or not isinstance(headers, dict):
        raise Malformed("its delivery_info or its headers are not objects")
    if not isinstance(route.get("exchange"), str) or not isinstance(route.get("routing_key"), str):
        raise Malformed("its delivery_info names no exchange or no routing key")
    if not isinstance(properties.get("priority", 0), int) or properties.get("body_encoding") not in ("base64", None):
        raise Malformed("its properties have values of the wrong type")
    if item.get("content-type") != "application/json" or item.get("content-encoding") not in ("utf-8", "binary", None):
        raise Malformed("its content is not JSON")
    body = _body(item.get("body"), properties.get("body_encoding"))
    if is_task:
        _check_task(headers, body)


def _body(body: Any, encoding: str | None) -> Any:
    try:
        return json.loads(b64decode(body, validate=True) if encoding else body)
    except (TypeError, ValueError, RecursionError):
        raise Malformed("its body cannot be read") from None


def _check_task(headers: dict[str, Any], body: Any) -> None:
    if not isinstance(headers.get("task"), str) or not isinstance(headers.get("id"), str):
        raise Malformed("it names no task")
    if not isinstance(body, list) or [type(part) for part in body] != [list, dict, dict]:
        raise Malformed("its body is not [args, kwargs, embed]")
    if any(not isinstance(headers.get(name), str | None) for name in OPTIONAL_TEXTS):
        raise Malformed("a header is not text")
    if not isinstance(headers.get("retries") or 0, int):
        raise Malformed("its number of retries is not a number")
    _check_times(headers)


def _check_times(headers: dict[str, Any]) -> None:
    limits = headers.get("timelimit") or [None, None]
    if not isinstance(limits, list) or len(limits) != 2 or any(not _is_limit(limit) for limit in limits):
        raise Malformed("its time limits are not numbers")
    for name in ("eta", "expires"):
        try:
            if headers.get(name) is not None and datetime.fromisoformat(headers[name]).year < 1970:
                raise ValueError
        except (TypeError, ValueError):
            raise Malformed(f"its {name} is not a time") from None


def _is_limit(value: Any) -> bool:
    """Return whether Celery can set a timer to this number of seconds."""
    return value is None or (isinstance(value, int | float) and 0 <= value <= 10**9)


class _Checking:
    """Mixin for kombu's channels: drop an item that cannot be read, and raise errors of its handling."""

    connection: Any
    connection_errors: tuple[type[BaseException], ...]

    def _brpop_read(self, **options: Any) -> Any:
        return self._drop_unreadable(super()._brpop_read, **options)  # type: ignore[misc]

    def _receive_one(self, subclient: Any) -> Any:
        return self._drop_unreadable(super()._receive_one, subclient)  # type: ignore[misc]

    def _drop_unreadable(self, read: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.connection.is_delivering = False
        try:
            return read(*args, **options)
        except (Empty, RedisError):
            raise
        except self.connection_errors:
            raise
        except Exception as error:  # of json, or of a type that kombu's JSON supports
            if self.connection.is_delivering:
                raise
            log.error("malformed item dropped from a queue", reason=f"not JSON ({type(error).__name__})")
            return True


class _Delivering:
    """Mixin for kombu's transports: deliver messages, and move malformed items to the list ASIDE."""

    channels: list[Any]
    is_delivering = False

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            check(message, is_task=not CONTROL.search(queue))
        except Malformed as reason:
            log.error("malformed item moved to the list mailer.malformed", queue=queue, reason=str(reason))
            self._put_aside(message)
            return
        self.is_delivering = True
        super()._deliver(message, queue)  # type: ignore[misc]

    def _put_aside(self, message: Any) -> None:
        channel = next(filter(None, self.channels))
        with channel.conn_or_acquire() as client:
            client.lpush(ASIDE, json.dumps(message, default=repr))
            client.ltrim(ASIDE, 0, KEPT - 1)


class Transport(_Delivering, restricted.Transport, redis.Transport):  # type: ignore[misc]
    """kombu's transport, which puts malformed items aside."""

    class Channel(_Checking, restricted.Channel, redis.Channel):  # type: ignore[misc]
        """kombu's channel, which drops items that cannot be read."""


class SentinelTransport(_Delivering, restricted.Transport, redis.SentinelTransport):  # type: ignore[misc]
    """The same, with Sentinel."""

    class Channel(_Checking, restricted.Channel, redis.SentinelChannel):  # type: ignore[misc]
        """The same, with Sentinel."""


def install() -> None:
    """Make kombu use these transports for redis://, rediss:// and sentinel://."""
    redis.GlobalKeyPrefixMixin.PREFIXED_SIMPLE_COMMANDS += ["EXISTS", "LTRIM"]  # kombu leaves these without the prefix
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelTransport"
