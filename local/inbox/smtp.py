"""The SMTP side: takes whatever it is given and keeps it."""

import asyncio
import logging

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from local.inbox import store

logger = logging.getLogger(__name__)

MAX_SIZE = 25 * 1024 * 1024


class Catcher(SMTP):
    """One connection. Any sender, recipient and credentials will do; only size is limited (552)."""

    # RFC 5321 allows 1,000 octets a line. A sender that breaks the rule should see its mail, not lose it here.
    line_length_limit = 2 * MAX_SIZE

    def __init__(self, kept: store.Store) -> None:
        super().__init__(
            Keeper(kept),
            hostname="inbox.localhost",  # else the name of this machine is looked up for each connection
            ident="Postcommit inbox",
            data_size_limit=MAX_SIZE,
            enable_SMTPUTF8=True,
            auth_require_tls=False,
            authenticator=_welcome,
        )


class Keeper:
    """What aiosmtpd calls back. The method names are its own."""

    def __init__(self, kept: store.Store) -> None:
        self._store = kept

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Accept the message only once it is on disk."""
        source = envelope.original_content or b""
        kept = store.Envelope(_address(envelope.mail_from), tuple(map(_address, envelope.rcpt_tos)))
        try:
            message_id = await asyncio.to_thread(self._store.add, source, kept)
        except OSError as error:
            logger.error("a message could not be kept: %s", error.strerror)
            return "452 4.3.1 The message could not be stored"
        # Sizes and numbers only: an address in a log outlives the mail.
        logger.info("received %d bytes for %d recipient(s): %s", len(source), len(kept.recipients), message_id)
        return f"250 2.0.0 Kept as {message_id}"

    async def handle_exception(self, error: Exception) -> str:
        """Answer what nobody foresaw; the text of the error could name an address."""
        logger.error("an SMTP command failed: %s", type(error).__name__)
        return "451 4.3.0 Local error in processing"


def _address(given: str | None) -> str:
    return "" if given in (None, "<>") else str(given)


def _welcome(server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: LoginPassword) -> AuthResult:
    return AuthResult(success=True)
