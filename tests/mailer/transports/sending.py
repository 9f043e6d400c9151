"""Connect and transmit in one step."""

from collections.abc import Callable, Collection

from django.core.mail import EmailMessage

from mailer.outcomes import Busy, Outcome, TransportDown
from mailer.routes import PRIMARY
from mailer.transports import connections
from mailer.transports.transmit import proceed, transmit


def send(
    message: EmailMessage,
    alias: str = PRIMARY,
    *,
    exclude: Collection[str] = (),
    guard: Callable[[], None] = proceed,
) -> Outcome:
    connection = connections.connect(alias)
    assert not isinstance(connection, Busy)
    return (
        connection
        if isinstance(connection, TransportDown)
        else transmit(connection, message, exclude=exclude, guard=guard)
    )
