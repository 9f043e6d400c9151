"""Signals for other code. Connect a receiver as to any Django signal:

@receiver(message_settled, sender=OrderShipped)
def note(sender, message, **_):
    Order.objects.filter(pk=message.arguments["order"]).update(was_notified=message.state == State.SENT)
"""

from collections.abc import Callable

import structlog
from django.db import OperationalError, connection, transaction
from django.dispatch import Signal

from mailer import email
from mailer.models import SETTLED, Message

log = structlog.get_logger(__name__)

message_settled = Signal()
"""Sent with `message` when it is sent, failed, cancelled, expired or suppressed. The sender is the class of its kind.

Receivers run inside the transaction that settles the message: what they write commits with the outcome, or not at all. They
should be fast. To call another system, enqueue a task.
"""


class ConnectionLost(OperationalError):
    """A receiver of message_settled lost the database connection, and the transaction with it."""


def send_settled(message: Message) -> None:
    """Call the receivers if the message is settled. Call it inside the transaction that settles.

    If a receiver raises, the error is logged, all writes of receivers are rolled back, and the outcome is kept. Raises
    ConnectionLost if the outcome was lost with the transaction: write it again without receivers.
    """
    kind = email.KINDS.get(message.kind)
    if not message_settled.has_listeners(kind):
        return
    row = Message.objects.get(pk=message.pk)
    if row.state not in SETTLED:
        return
    try:
        with transaction.atomic():
            message_settled.send(kind, message=row)
            _check_connection()
    except ConnectionLost:
        raise
    except Exception as error:
        _check_connection(error)
        log.exception("a receiver of message_settled failed and was rolled back", **message.log_fields())


def with_receivers[Result](message: Message, settle: Callable[[bool], Result]) -> Result:
    """Call `settle(True)` in a transaction. If a receiver loses the connection, call `settle(False)`, without receivers."""
    try:
        with transaction.atomic():
            return settle(True)
    except ConnectionLost:
        connection.close()
    with transaction.atomic():
        result = settle(False)
    log.error("settled without receivers of message_settled: one lost the connection", **message.log_fields())
    return result


def _check_connection(error: Exception | None = None) -> None:
    if connection.needs_rollback:  # after close() inside a transaction; Django would end it without an error
        raise ConnectionLost("the database connection was lost in a receiver of message_settled") from error
