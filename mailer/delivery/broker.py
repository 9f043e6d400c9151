"""The hand-over to Celery: bounded in time, by the task's name, with nothing but the message's id.

The broker is only the alarm clock. Whatever goes wrong here, the row is there and the sweep finds it, so no error of the
broker's ever reaches the caller.
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
"""Seconds that anybody waits for the broker, whatever it is busy with: a name server, a connection, an answer."""
SHORT_TIMEOUTS = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "max_retries": 0}
"""For connecting, and again for each answer (seconds); a worker that consumes is more patient."""
PRIORITY = 3
"""Within its queue; 0 is the most urgent, and the sweep's, so that no backlog keeps the sweep waiting."""
BREAK = 5.0
"""For so many seconds after a failure nothing is published by this process; the sweep works through what waits meanwhile."""

BROKER_AWAY = (OperationalError, OSError)
"""TimeoutError is an OSError."""


class Breaker:
    """Remembers that the broker is away or slow, so that not every request has to find it out for itself."""

    def __init__(self) -> None:
        self._try_again_at = 0.0
        self._is_away = False
        self._lock = threading.Lock()

    def is_open(self) -> bool:
        """Whether the broker was away a moment ago, so that it is not worth asking."""
        return time.monotonic() < self._try_again_at

    def trip(self) -> bool:
        """The broker did not answer. True if that is news."""
        with self._lock:
            was_away, self._is_away = self._is_away, True
            self._try_again_at = time.monotonic() + BREAK
            return not was_away

    def reset(self) -> bool:
        """The broker answered. True if that is news."""
        with self._lock:
            was_away, self._is_away = self._is_away, False
            return was_away


class BrokerThread:
    """The one thread of a process that talks to the broker, so that nobody else has to wait until it is done.

    Time-outs of sockets bound each step, of which there may be many, and nothing bounds the look-up of a host's name.
    """

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)  # a child inherits the object without its thread

    def renew(self) -> None:
        """Begins anew, with a thread that starts when it is needed."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publishing")

    def warm_up(self) -> None:
        """Connects without waiting for it: the first hand-over of a process takes longest, and somebody waits for that."""
        self._thread.submit(_with_producer, lambda producer: producer.connection.default_channel)

    def ask[Answer](self, question: Callable[[Producer], Answer]) -> Answer:
        """What `question` answers, with a producer of the pool. Raises TimeoutError after TIMEOUT, or what it raises."""
        asked = self._thread.submit(_with_producer, question)
        try:
            return asked.result(TIMEOUT)
        except TimeoutError:
            asked.cancel()  # if it was not its turn yet; what has begun may arrive all the same, and does no harm
            raise


breaker = Breaker()
broker_thread = BrokerThread()


def publish_on_commit(message: Message) -> None:
    """Hands the message over once the transaction commits; a failure is logged and never raised after a COMMIT."""
    transaction.on_commit(lambda: _publish_or_leave_to_sweep(message), robust=True)


def next_sweep(due_at: datetime, now: datetime) -> datetime:
    """When the sweep may first hand the message over.

    A while after its due time if a task is published now as well, because it is due within HORIZON; else at its due time.
    """
    return due_at + options().republish_after if due_at - now <= HORIZON else due_at


def publish(message: Message) -> bool:
    """Hands one message over to the workers; due in the future, with a countdown. False if the broker did not take it."""
    if breaker.is_open():
        return False
    countdown = max((message.due_at - timezone.now()).total_seconds(), 0.0)
    started = time.monotonic()

    def send(producer: Producer) -> None:
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

    try:
        _ask(send)
    except BROKER_AWAY:
        return False
    took = time.monotonic() - started
    log.info("published", **message.log_fields(), countdown=round(countdown, 1), ms=round(took * 1000))
    return True


def queue_lengths() -> Mapping[Queue, int] | None:
    """How many tasks wait in each queue, the most urgent queue first; None if the broker does not tell."""
    if breaker.is_open():
        return None
    try:
        return _ask(lambda producer: {queue: _length(producer, queue) for queue in Queue})
    except BROKER_AWAY:
        return None


def _ask[Answer](question: Callable[[Producer], Answer]) -> Answer:
    """Asks the broker, and tells the breaker how it went; the log hears of it when it goes and when it is back."""
    try:
        answer = broker_thread.ask(question)
    except BROKER_AWAY as error:
        if breaker.trip():
            log.warning("broker away or slow; the sweep takes over", error=type(error).__name__)
        raise
    if breaker.reset():
        log.info("broker back")
    return answer


def _length(producer: Producer, queue: Queue) -> int:
    channel: Any = producer.channel
    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:  # in Redis, a queue that is empty does not exist
        return 0


def _with_producer[Answer](question: Callable[[Producer], Answer]) -> Answer:
    connection = current_app.connection_for_write(transport_options=SHORT_TIMEOUTS)
    try:
        with producers[connection].acquire(block=True) as producer:
            return question(producer)
    except (*connection.connection_errors, *connection.channel_errors) as error:  # the client library's own
        raise OperationalError(str(error)) from error


def _publish_or_leave_to_sweep(message: Message) -> None:
    if message.due_at - timezone.now() <= HORIZON and not publish(message):
        Message.objects.waiting().filter(pk=message.pk).update(publish_at=F("due_at"))
