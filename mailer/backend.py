"""The outbox as an e-mail backend: mail of `send_mail()`, Django itself and other apps joins the caller's transaction.

MAILERS = {
    "default": {"BACKEND": "mailer.backend.OutboxBackend"},
    "transport": {"BACKEND": "mailer.transports.smtp.EmailBackend", "OPTIONS": {"host": …}},
}
"""

from collections.abc import Iterable
from typing import Any

import structlog
from django.core.mail import EmailMessage, InvalidMailer
from django.core.mail.backends.base import BaseEmailBackend
from django.db import Error, transaction

from mailer import outbox, routes
from mailer.attachments import TooLarge
from mailer.database import is_away

log = structlog.get_logger(__name__)


class OutboxBackend(BaseEmailBackend):
    """Enqueue messages instead of sending them. Each is sent if, and only if, the transaction commits.

    The option `transport` is the alias in MAILERS of the only transport that its messages may take. Without it they take the
    default route: `transport`, and its `fallback`.
    """

    leads_into_outbox = True
    alias: str | None

    def __init__(self, fail_silently: bool = False, *, transport: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.fail_silently = fail_silently
        self.transport = transport
        _check_route(transport, self.alias)

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Enqueue all messages or none. Return their number. Messages without recipients are skipped.

        Raises ValueError (such as TooLarge) for what cannot be sent, TypeError for what cannot be stored, and the database's
        own errors. As with a transport, `fail_silently` may drop mail: a message that is too large, and outside of a
        transaction all messages while the database is away. Inside a transaction that error is raised, because the caller's
        own work would be lost too.
        """
        messages = [message for message in email_messages if message.recipients()]
        if not messages:
            return 0
        try:
            with transaction.atomic():
                return sum(self._enqueue(message) for message in messages)
        except Error as error:
            if not is_away(error) or not self.fail_silently or transaction.get_connection().in_atomic_block:
                raise
            log.error("mail dropped because of fail_silently", messages=len(messages), error=type(error).__name__)
            return 0

    def _enqueue(self, message: EmailMessage) -> bool:
        try:
            outbox.enqueue_built(message, using=self.transport)
        except TooLarge as error:  # raised before anything was written
            if not self.fail_silently:
                raise
            log.error("mail dropped because of fail_silently", messages=1, error=type(error).__name__)
            return False
        return True


def _check_route(route: str, alias: str | None) -> None:
    """Raise InvalidMailer at once, not when the first mail is enqueued."""
    known = routes.names()
    if route not in known:
        others = ", ".join(map(repr, known[1:])) or "none"
        raise InvalidMailer(
            f"its option 'transport' is {route!r}, which is not the alias of a mailer that sends; there are: {others}.",
            alias=alias,
        )
    if not routes.transports(route):
        raise InvalidMailer(f"its messages are sent by MAILERS[{routes.PRIMARY!r}], which is missing.", alias=alias)
