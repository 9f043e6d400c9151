"""The hand-over to Celery: bounded in time, by the task's name, with nothing but the message's id.

The broker is only the alarm clock. Whatever goes wrong here, the row is there and the sweep finds it, so no error of the
broker's ever reaches the caller.
"""

import threading
import time
from datetime import datetime, timedelta

import structlog
from celery import current_app
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from kombu.exceptions import LimitExceeded, OperationalError
from kombu.pools import producers

from mailer.conf import options
from mailer.models import Message

log = structlog.get_logger("mailer.publishing")

DELIVER_TASK = "mailer.tasks.deliver_message"

HORIZON = timedelta(seconds=60)
"""Countdowns are held in a worker's memory, and come twice when they outlast the broker's visibility timeout; what is due
later than this waits in PostgreSQL."""

IMPATIENCE = {"socket_timeout": 0.25, "socket_connect_timeout": 0.25, "max_retries": 0}
"""For connecting, and again for each answer (seconds); a worker that consumes is more patient."""

POOL_WAIT = 0.3
"""Seconds that a thread waits for a connection of the pool."""
SLOW = 0.5
"""A publish that took so many seconds, though it succeeded, is treated like one that failed: the next may take as long."""
PRIORITY = 3
"""Within its queue; 0 is the most urgent, and the sweep's, so that no backlog keeps the sweep waiting."""
BREAK = 5.0
"""For so many seconds after a failure nothing is published by this process; the sweep works through what waits meanwhile."""


class Breaker:
    """Remembers that the broker is away or slow, so that not every request has to find it out for itself."""

    def __init__(self) -> None:
        self._closed_again_at = 0.0
        self._lock = threading.Lock()

    def is_open(self) -> bool:
        """Whether the broker is known to be away."""
        return time.monotonic() < self._closed_again_at

    def trip(self) -> bool:
        """Opens the breaker; True for the one thread that is to tell of it."""
        with self._lock:
            first = not self.is_open()
            self._closed_again_at = time.monotonic() + BREAK
            return first


breaker = Breaker()


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
    try:
        connection = current_app.connection_for_write(transport_options=IMPATIENCE)
        with producers[connection].acquire(block=True, timeout=POOL_WAIT) as producer:
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
    except (OperationalError, LimitExceeded, OSError) as error:
        if breaker.trip():
            log.warning("broker away; the sweep takes over", message_id=message.pk, error=type(error).__name__)
        return False
    took = time.monotonic() - started
    if took > SLOW and breaker.trip():
        log.warning("broker slow; the sweep takes over", message_id=message.pk, ms=round(took * 1000))
    log.info("published", **message.log_fields(), countdown=round(countdown, 1), ms=round(took * 1000))
    return True


def _publish_or_leave_to_sweep(message: Message) -> None:
    if message.due_at - timezone.now() <= HORIZON and not publish(message):
        Message.objects.waiting().filter(pk=message.pk).update(publish_at=F("due_at"))
