"""Find what fell silent: settle the claims of dead workers, expire overdue messages, and kick the queues that have due mail.

Every worker process runs it by a monotonic timer, one at a time. It needs neither beat nor the broker.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta

import structlog
from django.db.models.functions import Now

from mailer import email, signals
from mailer.conf import options
from mailer.database import is_away
from mailer.delivery import broker, circuit, streams
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.reserve import has_due
from mailer.delivery.settle import settle_abandoned, settle_unsent
from mailer.delivery.steps import EXPIRED
from mailer.feedback import events, reputation
from mailer.models import Message, Queue, Worker

log = structlog.get_logger(__name__)

BATCH = 500
"""The largest number of messages that one sweep settles, so that it ends before the next one begins."""
HAND_OVER = timedelta(seconds=2)
"""A message that has been due for this long has no task of its own any more, or is slow to be taken."""
DEAD = timedelta(days=1)
"""How long the last heartbeat of a dead worker is kept, for an operator to see."""


def sweep() -> None:
    """Do all of it once. Several sweeps may run at once."""
    settled = settle_claims_of_dead_workers() if heartbeat.has_lasted() else 0
    expired = expire_overdue()
    streams.make_due()
    kicked = kick_queues()
    repeat_receivers()
    events.apply_due()
    reputation.judge()
    Worker.objects.filter(seen_at__lt=Now() - DEAD).delete()
    circuit.forget_old()
    if settled or expired or kicked:
        log.info("swept", abandoned=settled, expired=expired, kicked=kicked)


def begin() -> bool:
    """Return whether it is this worker's turn: no other one has swept in this interval, by the database's clock."""
    # Not in the future: the database's clock may have been corrected.
    recently = Worker.objects.filter(swept_at__gt=Now() - options().sweep_every * 0.9, swept_at__lte=Now())
    return not recently.exists() and Worker.objects.filter(pk=heartbeat.worker).update(swept_at=Now()) == 1


def settle_claims_of_dead_workers() -> int:
    """Settle claims whose worker is silent or whose lease has ended: the outcome is unknown. Return their number."""
    abandoned = Message.objects.abandoned().order_by("claimed_until")[:BATCH]
    return _each(abandoned, settle_abandoned)


def expire_overdue() -> int:
    """Settle waiting messages whose deadline has passed, even if no transport or worker can take them."""
    overdue = Message.objects.expired().order_by("expires_at")[:BATCH]
    return _each(overdue, lambda message: settle_unsent(message, EXPIRED))


def _each(messages: Iterable[Message], settle: Callable[[Message], object]) -> int:
    """Settle messages one by one. One that fails does not stop the others."""
    settled = 0
    for message in messages:
        try:
            settled += bool(settle(message))
        except email.UnknownKind as error:
            log.warning("not settled; waits for a newer release's worker", **message.log_fields(), reason=str(error))
        except Exception as error:
            if is_away(error):
                raise
            log.exception("not settled; tried again by the next sweep", **message.log_fields())
    return settled


def kick_queues() -> int:
    """Publish one task for each queue that has due messages and no waiting task. Return the number of queues."""
    open_routes = circuit.open_routes()
    late = [queue for queue in Queue if has_due([queue], open_routes, HAND_OVER)]
    return sum(broker.kick_if_idle(queue) for queue in late)


def repeat_receivers() -> None:
    """Have the receivers of message_settled called again that failed, or whose process died."""
    served = heartbeat.queues or Queue.values
    queue = Queue.DEFAULT if Queue.DEFAULT in served else served[-1]
    if (messages := signals.overdue()) and broker.publish_receivers(messages, queue):
        signals.postpone(messages)
