"""The tests' mail server, which also notes when mail came, and whose answers may take long."""

import asyncio
import time
from collections import deque

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.smtp_sink import Phase, Received, Sink


class Arrivals(list[Received]):
    """Received mail, and the time of each (seconds since the epoch)."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, received: Received) -> None:
        """Add a mail that came just now."""
        self.times.append(time.time())
        super().append(received)


class MailServer(Sink):
    """`server.pauses["BODY"] = deque([20.0])`: the next answer to a payload comes 20 s after it."""

    def __init__(self) -> None:
        super().__init__()
        self.received = self.arrivals = Arrivals()
        self.pauses: dict[Phase, deque[float]] = {}

    async def scripted(self, phase: Phase) -> str | None:
        """Return the scripted answer of this phase, after its pause."""
        await self._pause(phase)
        return await super().scripted(phase)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        reply = await super().handle_DATA(server, session, envelope)
        await self._pause("BODY")
        return reply

    async def _pause(self, phase: Phase) -> None:
        if waiting := self.pauses.get(phase):
            await asyncio.sleep(waiting.popleft())
