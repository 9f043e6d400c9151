"""The Celery tasks. Each one is a single call; the work is done elsewhere.

What a task returns is a sentence for Flower: ids, states and codes, never an address or a text of a mail.
"""

from collections.abc import Callable
from typing import Any

import structlog
from celery import Task, shared_task
from django.db import Error, connection

from mailer import signals
from mailer.conf import options
from mailer.database import is_away
from mailer.delivery import broker, circuit, pipeline, rate, retention
from mailer.delivery.claim import LEASE
from mailer.delivery.heartbeat import heartbeat
from mailer.feedback import events, mailbox
from mailer.feedback.bounce_mail import take

log = structlog.get_logger(__name__)

TIME_LIMIT = round((rate.LONGEST_WAIT_OF_CRITICAL + 2 * LEASE).total_seconds())
"""Seconds until Celery kills a worker process that is still busy with one task (prefork pool only)."""


@shared_task(name=broker.DELIVER_TASK, bind=True, max_retries=10, time_limit=TIME_LIMIT)
def deliver_message(self: "Task[Any, Any]", message_id: int) -> str:
    """Deliver the message with this id.

    Celery retries only while the database is away; refusals by mail servers are handled in the row. After the last retry, or
    if the broker loses the task, a worker finds the row by itself.
    """
    try:
        return pipeline.deliver(message_id, on_late=_deliver_due)
    except Error as error:
        if not is_away(error):
            raise
        connection.close()  # a server that became read-only keeps it open
        pause = min(2 ** min(self.request.retries, 5), 30)
        log.warning("database away", message_id=message_id, error=type(error).__name__, seconds=pause)
        raise self.retry(exc=error, countdown=pause) from None


@shared_task(name=broker.KICK_TASK, max_retries=0, time_limit=TIME_LIMIT)
def deliver_due(queue: str) -> str:
    """Deliver what is due, the most urgent queue of this worker first. While work is left, one such task waits.

    A worker repeats it by itself if the database is away.
    """
    return _unless_away(lambda: _tried(_deliver_due(queue)))


def _tried(messages: int) -> str:
    return f"{messages} messages tried" if messages else circuit.describe(circuit.paused()) or "nothing is due"


def _unless_away(work: Callable[[], str]) -> str:
    """Return what the work says, or that the database is away."""
    try:
        return work()
    except Error as error:
        if not is_away(error):
            raise
        connection.close()  # a server that became read-only keeps it open
        log.warning("database away", error=type(error).__name__)
        return "database away"


def _deliver_due(queue: str) -> int:
    return pipeline.deliver_due(heartbeat.queues or [queue], on_more=lambda: broker.kick_if_idle(queue))


@shared_task(name=broker.RECEIVERS_TASK, max_retries=0)
def call_receivers(message_ids: list[int]) -> str:
    """Call the receivers of message_settled again for these messages."""
    for message_id in message_ids:
        signals.call_receivers(message_id)
    return f"receivers called for {len(message_ids)} messages"


@shared_task(name=broker.EVENTS_TASK, max_retries=0)
def apply_events(count: int) -> str:
    """Apply the reports that are due: bounces, complaints, deliveries. A worker repeats it by itself."""
    return _unless_away(lambda: f"{events.apply_due()} reports applied")


@shared_task(name="mailer.tasks.read_bounces", max_retries=0, time_limit=TIME_LIMIT)
def read_bounces() -> str:
    """Read the mailbox for bounces; beat calls it once a minute. What is not read stays in the mailbox."""
    return _unless_away(_read_bounces)


def _read_bounces() -> str:
    try:
        run = mailbox.read(mailbox.Mailbox.from_url(options().bounce_mailbox), take)
    except mailbox.NotRead as error:
        log.error("the mailbox for bounces cannot be read", reason=str(error))
        return f"the mailbox cannot be read: {error}"
    events.apply_due()
    return str(run)


@shared_task(name="mailer.tasks.purge", max_retries=0)
def purge() -> str:
    """Delete what is older than its retention; beat calls it once an hour."""
    return f"{retention.purge()} messages deleted"
