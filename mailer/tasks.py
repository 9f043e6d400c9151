"""What Celery runs: each task is one call, and the work is elsewhere."""

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
"""A worker process that is still busy with one message then is beyond help (prefork pool only; seconds)."""


@shared_task(name=DELIVER_TASK, bind=True, max_retries=10, time_limit=TIME_LIMIT)
def deliver_message(self: "Task[Any, Any]", message_id: int) -> None:
    """Delivers the message with this id.

    While the database is away, the task knocks again every few seconds; refusals of mail servers are not its affair but
    the row's. When the knocking ends, or is lost with the broker, the sweep finds the row.
    """
    try:
        pipeline.deliver(message_id)
    except DATABASE_AWAY as error:
        pause = min(2**self.request.retries, 30)
        log.warning(
            "database away",
            message_id=message_id,
            error=type(error).__name__,
            retry=self.request.retries + 1,
            seconds=pause,
        )
        raise self.retry(exc=error, countdown=pause) from None


@shared_task(name="mailer.tasks.sweep", max_retries=0)
def sweep() -> None:
    """Republishes strays and settles abandoned claims; beat calls it every few seconds."""
    sweeping.sweep()


@shared_task(name="mailer.tasks.purge", max_retries=0)
def purge() -> None:
    """Deletes what is older than the retention; beat calls it once an hour."""
    retention.purge()
