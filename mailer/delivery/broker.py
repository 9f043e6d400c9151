"""Publish tasks to Celery: bounded in time, by the task's name, with nothing but the message's id.

The broker is only the alarm clock. If publishing fails, the row is still there and the sweep finds it, so no error of the
broker reaches the caller.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import structlog
from celery import current_app
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from kombu import Producer
from kombu.exceptions import ChannelError, OperationalError
from kombu.pools import producers

from mailer.conf import HORIZON, options
from mailer.models import Message, Queue

log = structlog.get_logger(__name__)

DELIVER_TASK = "mailer.tasks.deliver_message"

TIMEOUT = 0.25
"""The longest time (seconds) that a caller waits for the broker: name resolution, connection and answer together."""
SHORT_TIMEOUTS = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "max_retries": 0}
"""For publishing. They apply to the connection and again to each answer (seconds); a consuming worker waits longer."""
PRIORITY = 3
"""Within its queue. The sweep has 0, the most urgent, so that no backlog delays it."""
BREAK = 5.0
"""Seconds without publishing after a failure. Meanwhile the sweep handles waiting messages."""

BROKER_AWAY = (OperationalError, OSError)
"""TimeoutError is an OSError."""


class CircuitBreaker:
    """Stop publishing for BREAK seconds after the broker failed, so that not every request waits for it.

    It belongs to one process. Half-open, after BREAK, every caller may try.
    """

    def __init__(self) -> None:
        self._open_until = 0.0
        self._is_closed = True
        self._lock = threading.Lock()

    def is_open(self) -> bool:
        """Return whether the broker failed less than BREAK seconds ago."""
        return time.monotonic() < self._open_until

    def open(self) -> bool:
        """Open after a failure. Return whether it was closed before."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, False
            self._open_until = time.monotonic() + BREAK
            return was_closed

    def close(self) -> bool:
        """Close after an answer. Return whether it was open or half-open before."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            return not was_closed


class BrokerThread:
    """Talk to the broker in one thread of the process, so that a caller can stop waiting after TIMEOUT.

    Socket timeouts limit one step each, and a conversation has many steps. Name resolution has no timeout at all.
    """

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)  # a child inherits the object without its thread

    def renew(self) -> None:
        """Replace the thread by one that starts when it is needed."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publishing")

    def warm_up(self) -> None:
        """Connect in the background: otherwise the first request that publishes waits for the connection."""
        self._thread.submit(_with_producer, lambda producer: producer.connection.default_channel)

    def ask[Answer](self, question: Callable[[Producer], Answer]) -> Answer:
        """Call `question` with a producer of the pool. Raises TimeoutError after TIMEOUT, or what `question` raises."""
        asked = self._thread.submit(_with_producer, question)
        try:
            return asked.result(TIMEOUT)
        except TimeoutError:
            asked.cancel()  # works only before it begins; a task that is published later does no harm
            raise


breaker = CircuitBreaker()
broker_thread = BrokerThread()


def publish_on_commit(message: Message) -> None:
    """Publish the message after the transaction commits. A failure is logged, not raised, and the sweep publishes it later."""

    def publish_or_leave_to_sweep() -> None:
        if message.due_at - timezone.now() <= HORIZON and not publish(message):
            Message.objects.waiting().filter(pk=message.pk).update(publish_at=F("due_at"))

    transaction.on_commit(publish_or_leave_to_sweep, robust=True)


def next_sweep(due_at: datetime, now: datetime) -> datetime:
    """Return the time from which the sweep may publish the message.

    If it is due within HORIZON, a task is published at once, and the sweep waits for `republish_after` more.
    """
    return due_at + options().republish_after if due_at - now <= HORIZON else due_at


def publish(message: Message) -> bool:
    """Publish a task for the message, with a countdown if it is due later. Return False if the broker is away."""
    countdown = max((message.due_at - timezone.now()).total_seconds(), 0.0)
    started = time.monotonic()

    def send(producer: Producer) -> bool:
        current_app.send_task(
            DELIVER_TASK,
            args=[message.pk],
            countdown=countdown or None,
            queue=message.queue,
            priority=PRIORITY,
            producer=producer,
            retry=False,
            ignore_result=True,
        )
        return True

    if not _ask(send):
        return False
    took = time.monotonic() - started
    log.info("published", **message.log_fields(), countdown=round(countdown, 1), ms=round(took * 1000))
    return True


def queue_lengths() -> Mapping[Queue, int] | None:
    """Return the number of tasks in each queue, the most urgent queue first; None if the broker does not answer."""
    return _ask(lambda producer: {queue: _length(producer, queue) for queue in Queue})


def _ask[Answer](question: Callable[[Producer], Answer]) -> Answer | None:
    """Ask the broker through the circuit breaker. None if the broker is away."""
    if breaker.is_open():
        return None
    try:
        answer = broker_thread.ask(question)
    except BROKER_AWAY as error:
        if breaker.open():
            log.warning("broker away or slow; mail waits for the sweep", error=type(error).__name__)
        return None
    if breaker.close():
        log.info("broker back")
    return answer


def _length(producer: Producer, queue: Queue) -> int:
    channel: Any = producer.channel
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:  # in Redis an empty queue does not exist
        return 0


def _with_producer[Answer](question: Callable[[Producer], Answer]) -> Answer:
    connection = current_app.connection_for_write(transport_options=SHORT_TIMEOUTS)
    try:
        with producers[connection].acquire(block=True) as producer:
            return question(producer)
    except (*connection.connection_errors, *connection.channel_errors) as error:  # errors of the client library
        raise OperationalError(str(error)) from error
