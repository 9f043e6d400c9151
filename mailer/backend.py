"""Django's door to the outbox: whatever `send_mail()`, Django itself or somebody else's app sends takes the same way as all
the other mail, in the transaction of the caller.

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
from django.db import InterfaceError, OperationalError, transaction

from mailer import outbox, routes
from mailer.attachments import TooLarge

log = structlog.get_logger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError)


class OutboxBackend(BaseEmailBackend):
    """Writes messages down instead of sending them. Each is sent if, and only if, the transaction commits.

    Its one option, `transport`, is the alias in MAILERS that its messages have to take. Without it they take the usual way,
    `transport`, and its `fallback`.
    """

    leads_into_outbox = True
    alias: str | None

    def __init__(self, fail_silently: bool = False, *, transport: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.fail_silently = fail_silently
        self.transport = transport
        _check(transport, self.alias)

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Enqueues all of them or none, and returns how many it were. Those without recipients are skipped.

        Raises ValueError (TooLarge is one) for what cannot be sent, TypeError for what cannot be stored, and the
        database's own errors. `fail_silently` silences what it does with a transport, and takes nothing but mail from the
        caller: a message that is too large is left out, and where there is no transaction, a database that is away is
        borne. Inside of one the caller's own work is at stake; and of a message that is none Django tells in any case.
        """
        messages = [message for message in email_messages if message.recipients()]
        if not messages:
            return 0
        try:
            with transaction.atomic():
                return sum(self._enqueue(message) for message in messages)
        except DATABASE_AWAY as error:
            if not self.fail_silently or transaction.get_connection().in_atomic_block:
                raise
            log.error("mail dropped, as fail_silently asks for", messages=len(messages), error=type(error).__name__)
            return 0

    def _enqueue(self, message: EmailMessage) -> bool:
        try:
            outbox.enqueue_built(message, using=self.transport)
        except TooLarge as error:  # found out before anything was written
            if not self.fail_silently:
                raise
            log.error("mail dropped, as fail_silently asks for", messages=1, error=type(error).__name__)
            return False
        return True


def _check(way: str, alias: str | None) -> None:
    """A wrong one would be found out when the first mail is written, by a customer."""
    ways = routes.names()
    if way not in ways:
        there_are = ", ".join(map(repr, ways[1:])) or "none"
        raise InvalidMailer(
            f"its option 'transport' is {way!r}, which is not the alias of a mailer that sends; there are: {there_are}.",
            alias=alias,
        )
    if not routes.transports(way):
        raise InvalidMailer(
            f"what it takes leaves through MAILERS[{routes.PRIMARY!r}], which is missing; add it, or name another "
            "mailer in the option 'transport'.",
            alias=alias,
        )
