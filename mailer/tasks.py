"""The Celery tasks. Each one is a single call; the work is done elsewhere."""

from typing import Any

import structlog
from celery import Task, shared_task
from django.db import InterfaceError, OperationalError

from mailer.conf import options
from mailer.delivery import pipeline, rate, retention
from mailer.delivery import sweep as sweeping
from mailer.delivery.broker import DELIVER_TASK

log = structlog.get_logger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError)

TIME_LIMIT = round((max(rate.LONGEST_WAIT.values()) + 2 * options().claim_lease).total_seconds())
"""Seconds until Celery kills a worker process that is still busy with one message (prefork pool only)."""


@shared_task(name=DELIVER_TASK, bind=True, max_retries=10, time_limit=TIME_LIMIT)
def deliver_message(self: "Task[Any, Any]", message_id: int) -> None:
    """Deliver the message with this id.

    Celery retries only while the database is away; refusals by mail servers are handled in the row. After the last retry, or
    if the broker loses the task, the sweep finds the row.
    """
    try:
        pipeline.deliver(message_id)
    except DATABASE_AWAY as error:
        pause = min(2**self.request.retries, 30)
        log.warning("database away", message_id=message_id, error=type(error).__name__, seconds=pause)
        raise self.retry(exc=error, countdown=pause) from None


@shared_task(name="mailer.tasks.sweep", max_retries=0)
def sweep() -> None:
    """Re-queue overdue messages and settle abandoned ones; beat calls it every few seconds."""
    sweeping.sweep()


@shared_task(name="mailer.tasks.purge", max_retries=0)
def purge() -> None:
    """Delete what is older than its retention; beat calls it once an hour."""
    retention.purge()
