"""Tells other code when a message is settled.

A receiver is connected as to every signal of Django's:

    @receiver(message_settled, sender=OrderShipped)
    def note(sender, message, **_):
        Order.objects.filter(pk=message.arguments["order"]).update(was_told=message.state == State.SENT)
"""

import structlog
from django.db import OperationalError, connection, transaction
from django.dispatch import Signal

from mailer import email
from mailer.models import SETTLED, Message

log = structlog.get_logger(__name__)

message_settled = Signal()
"""Sent with `message` when it is sent, failed, cancelled, expired or suppressed; the sender is the class of its kind.

It is sent inside the transaction that settles the message, so what a receiver writes to the database commits with the
outcome, or not at all. It should do nothing slow: to talk to somebody else, let it enqueue something.
"""


class ConnectionLost(OperationalError):
    """A receiver of message_settled cost the database connection, and the transaction with it."""


def send_settled(message: Message) -> None:
    """Calls the receivers, if the message is settled. If one of them raises, that is logged, what they wrote is taken back,
    and the outcome stands all the same. Call it inside the transaction that settles.

    Raises ConnectionLost: the outcome is lost with the transaction then, and has to be written once more, without receivers.
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
            _hold_on()
    except ConnectionLost:
        raise
    except Exception as error:
        _hold_on(error)
        log.exception("a receiver of message_settled failed", **message.log_fields())


def log_skipped(message: Message) -> None:
    """Tells the operator that the message was settled without its receivers, since they cost the connection."""
    connection.close()
    log.error("settled without the receivers of message_settled: they lost the connection", **message.log_fields())


def _hold_on(error: Exception | None = None) -> None:
    if connection.needs_rollback:  # as after close() inside a transaction; Django would end it without a word
        raise ConnectionLost("the database connection was lost under a receiver of message_settled") from error
