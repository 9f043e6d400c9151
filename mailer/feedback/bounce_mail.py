"""Take a mail that came to the bounce address, whichever way it came: a pipe, a mailbox, a provider's webhook."""

from collections.abc import Iterable

import structlog

from mailer.feedback import bounces, events
from mailer.transports import verp

log = structlog.get_logger(__name__)


def take(raw: bytes, to: Iterable[str] = ()) -> int:
    """Store what the mail reports, and return the number of reports: none if it is no bounce.

    `to` has the addresses that it was delivered to, if they are known. Raises the errors of the database.
    """
    reports = bounces.parse(raw, message_of=verp.message_of, to=to)
    if reports:
        events.store(events.BOUNCE_MAIL, reports)
    log.info("bounce read" if reports else "a mail to the bounce address is no bounce", reports=len(reports))
    return len(reports)
