"""Publish tasks to Celery: bounded in time, by the task's name, with nothing but a message's id or a queue's name.

The broker is only the alarm clock. If publishing fails, the row is still there and a worker finds it, so no error of the
broker reaches the caller.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from celery import current_app
from django.db import transaction
from kombu import Producer
from kombu.exceptions import ChannelError, OperationalError
from kombu.pools import producers

from mailer import permissions
from mailer.conf import HORIZON
from mailer.delivery.heartbeat import heartbeat
from mailer.models import Message, Queue

log = structlog.get_logger(__name__)

DELIVER_TASK = "mailer.tasks.deliver_message"
"""Deliver the message with this id."""
KICK_TASK = "mailer.tasks.deliver_due"
"""Deliver what is due in this queue. One waiting task of this kind is enough, however many messages are due."""
RECEIVERS_TASK = "mailer.tasks.call_receivers"
"""Call the receivers of these messages again."""
EVENTS_TASK = "mailer.tasks.apply_events"
"""Apply what the receiving side reported. One waiting task of this kind is enough."""

TIMEOUT = 0.25
"""The longest time (seconds) that a caller waits for the broker: name resolution, connection and answer together."""
SHORT_TIMEOUTS = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "max_retries": 0}
"""For publishing. They apply to the connection and again to each answer (seconds); a consuming worker waits longer."""
BREAK = 5.0
"""Seconds without publishing after a failure. Meanwhile the workers find waiting messages by themselves."""

LONGEST_SHOWN = 200
"""Characters of a task's arguments in Flower."""

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


@dataclass(slots=True)
class HandOver:
    """Publish the messages of one transaction after its commit: one task each for the first of a queue, a kick for the rest.

    So a commit costs two round trips at most for each queue and delay, whatever the number of its messages.
    """

    published: dict[tuple[str, int], int] = field(default_factory=dict)

    def publish(self, message: Message, delay: timedelta) -> None:
        key = message.queue, round(delay.total_seconds())
        times = self.published[key] = self.published.get(key, 0) + 1
        if delay > HORIZON or times > 2:
            return
        if times == 1:
            publish(message, delay)
        else:
            kick(message.queue, delay)


@dataclass(frozen=True, slots=True)
class _Hook:
    """What Django calls after the commit."""

    hand_over: HandOver
    message: Message
    delay: timedelta

    def __call__(self) -> None:
        self.hand_over.publish(self.message, self.delay)


def publish_on_commit(message: Message, delay: timedelta) -> None:
    """Publish the message, which is due after `delay`, when the transaction commits. A failure is logged, not raised."""
    transaction.on_commit(_Hook(_hand_over(), message, delay), robust=True)


def _hand_over() -> HandOver:
    """Return the hand-over of this transaction. A savepoint that is rolled back takes its own hooks with it."""
    hooks = (hook for _, hook, _ in reversed(transaction.get_connection().run_on_commit) if isinstance(hook, _Hook))
    last = next(hooks, None)
    return last.hand_over if last else HandOver()


def publish(message: Message, delay: timedelta = timedelta(0)) -> bool:
    """Publish a task for the message, with a countdown if it is due later. Return False if the broker is away."""
    shown = f"{message.pk} ({message.kind})"
    return _publish(DELIVER_TASK, message.pk, message.queue, delay, shown, **message.log_fields())


def kick(queue: str, delay: timedelta = timedelta(0)) -> bool:
    """Publish a task that delivers what is due in the queue. Return False if the broker is away, or it is due too late."""
    return delay <= HORIZON and _publish(KICK_TASK, queue, queue, delay, queue, queue=queue)


def answers(queues: Sequence[str] = ()) -> bool:
    """Return whether the broker answers, and permits a worker of these queues to work."""

    def ask(producer: Producer) -> int:
        permissions.require(producer.channel, queues)
        return _length(producer, Queue.DEFAULT)

    return _ask(ask) is not None


def kick_if_idle(queue: str) -> bool:
    """Kick the queue unless a task waits in it already. Return whether it was kicked."""
    return _ask(lambda producer: _length(producer, queue)) == 0 and kick(queue)


def publish_events(count: int) -> bool:
    """Publish a task that applies so many new reports, behind all urgent mail."""
    return _publish(EVENTS_TASK, count, Queue.BULK, timedelta(0), f"{count} reports", events=count)


def publish_receivers(message_ids: Sequence[int], queue: str) -> bool:
    """Publish a task that calls the receivers of these messages."""
    shown = ", ".join(map(str, message_ids))
    return _publish(RECEIVERS_TASK, list(message_ids), queue, timedelta(0), shown, queue=queue)


def _publish(task: str, argument: Any, to: str, delay: timedelta, shown: str, **fields: Any) -> bool:
    """Publish a task with one argument. `shown` is what Flower shows of it: ids and names."""
    if current_app.conf.task_always_eager:
        return not delay and _run_here(task, argument)
    started = time.monotonic()

    def send(producer: Producer) -> bool:
        current_app.send_task(
            task,
            args=[argument],
            argsrepr=shown[:LONGEST_SHOWN],
            countdown=delay.total_seconds() or None,
            queue=to,
            producer=producer,
            retry=False,
            ignore_result=True,
        )
        return True

    if not _ask(send):
        return False
    ms = round((time.monotonic() - started) * 1000)
    log.debug("published", **fields, countdown=round(delay.total_seconds(), 1), ms=ms)
    return True


def _run_here(task: str, argument: Any) -> bool:
    """Run a task in this process, as a project's tests may ask for. `send_task` would only warn that it cannot."""
    heartbeat.beat()  # an earlier test may have rolled back its row
    current_app.loader.import_module(task.rpartition(".")[0])
    current_app.tasks[task](argument)
    return True


def _ask[Answer](question: Callable[[Producer], Answer]) -> Answer | None:
    """Ask the broker through the circuit breaker. None if the broker is away, or not used."""
    if current_app.conf.task_always_eager or breaker.is_open():
        return None
    try:
        answer = broker_thread.ask(question)
    except BROKER_AWAY as error:
        if breaker.open():
            cause = error.__cause__ or error  # such as NoPermissionError
            log.warning("broker away or slow; workers find the mail by themselves", error=type(cause).__name__)
        return None
    if breaker.close():
        log.info("broker back")
    return answer


def _length(producer: Producer, queue: str) -> int:
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
