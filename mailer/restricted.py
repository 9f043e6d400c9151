"""Mixins for kombu's Redis transport, whose user may not do everything (ACL).

Celery's remote control, its events and the release of a lock need channels and scripts. A worker does without them: otherwise
it would lose its connection each time, and connect again for ever.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import structlog
from kombu.transport import redis
from redis.exceptions import ResponseError

from mailer import permissions

log = structlog.get_logger(__name__)

CONSUMES_FROM = "consumes_from"
"""The transport option with the queues of a worker. It connects only if its user may do what a worker does."""


@contextmanager
def doing_without() -> Iterator[None]:
    """Do something that a worker can do without. That the server refuses it is logged once."""
    try:
        yield
    except ResponseError as error:
        if not permissions.is_refusal(error):
            raise
        _tell(str(error).rpartition("caused error: ")[2])  # without the values that a pipeline's error quotes


@cache
def _tell(reason: str) -> None:
    log.warning("Redis refuses what remote control and Flower need; `check --deploy` names the rules", reason=reason)


class QoS(redis.QoS):
    """kombu's book of unacknowledged messages. Without scripts its lock is not released: it expires."""

    def restore_visible(self, *args: Any, **options: Any) -> None:
        with doing_without():
            super().restore_visible(*args, **options)


class Channel:
    """Mixin for channels that do without what only remote control and events need."""

    _expires: dict[str, int]
    """The queues of remote control and of events, which expire. Their bindings are written by a script."""
    QoS = QoS

    def _size(self, queue: str) -> int:
        with doing_without() if queue in self._expires else nullcontext():
            return int(super()._size(queue))  # type: ignore[misc]
        return 0

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        with doing_without() if queue in self._expires else nullcontext():
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[misc]

    def maybe_refresh_binding_expiry(self) -> None:
        with doing_without():
            super().maybe_refresh_binding_expiry()  # type: ignore[misc]

    def _put_fanout(self, *args: Any, **options: Any) -> None:
        with doing_without():
            super()._put_fanout(*args, **options)  # type: ignore[misc]

    def _receive_one(self, subclient: Any) -> Any:
        with doing_without():
            return super()._receive_one(subclient)  # type: ignore[misc]


class Transport:
    """Mixin for transports: a worker's connection fails with a sentence if its user may not do what a worker does."""

    client: Any
    _avail_channels: list[Any]

    def establish_connection(self) -> Any:
        connection = super().establish_connection()  # type: ignore[misc]
        try:
            permissions.require(self._avail_channels[-1], self.client.transport_options.get(CONSUMES_FROM, ()))
        except permissions.Refused:
            self.close_connection(connection)  # type: ignore[attr-defined]
            raise
        return connection
