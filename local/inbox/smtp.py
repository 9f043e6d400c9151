"""The SMTP server: accept and keep every message."""

import asyncio
import logging

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from local.inbox.store import Store

logger = logging.getLogger(__name__)

MAX_SIZE = 25 * 1024 * 1024


class Catcher(SMTP):
    """One connection. It accepts any sender, recipient and credentials; only the size is limited (552)."""

    # RFC 5321 allows 1,000 octets per line. Mail that breaks this rule is kept too, so that its sender can see it.
    line_length_limit = 2 * MAX_SIZE

    def __init__(self, store: Store) -> None:
        super().__init__(
            Keeper(store),
            hostname="inbox.localhost",  # otherwise each connection looks up the name of this machine
            ident="Postcommit inbox",
            data_size_limit=MAX_SIZE,
            enable_SMTPUTF8=True,
            auth_require_tls=False,
            authenticator=lambda *_: AuthResult(success=True),
        )


class Keeper:
    """The callbacks of aiosmtpd, which sets their names."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Accept the message after it is on disk."""
        source = envelope.original_content or b""
        sender = (envelope.mail_from or "").replace("<>", "")
        try:
            message_id = await asyncio.to_thread(self._store.add, source, sender, envelope.rcpt_tos)
        except OSError as error:
            logger.error("a message could not be stored: %s", error.strerror)
            return "452 4.3.1 The message could not be stored"
        # No addresses: the log is kept longer than the mail.
        logger.info("received %d bytes for %d recipient(s): %s", len(source), len(envelope.rcpt_tos), message_id)
        return f"250 2.0.0 Kept as {message_id}"

    async def handle_exception(self, error: Exception) -> str:
        """Answer an unexpected error. Its text could contain an address, so only its type is logged."""
        logger.error("an SMTP command failed: %s", type(error).__name__)
        return "451 4.3.0 Local error in processing"
