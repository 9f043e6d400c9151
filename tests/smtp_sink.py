"""A mail server for tests: real SMTP on a free port, with a script of its faults."""

import asyncio
import email
import email.policy
import logging
import math
import random
import re
import threading
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Literal

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

logging.getLogger("mail.log").setLevel(logging.WARNING)  # aiosmtpd logs every command

Phase = Literal["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BODY"]

CUT = "cut"
"""As a reply: close the connection without one. In BODY, the payload is received and stored before."""
HANG = "hang"
"""As a reply: silence, for longer than any test waits."""

SLOW = "slow"
"""As a reply: the normal one, a second later."""


@dataclass(slots=True)
class Received:
    """A received message with its envelope."""

    sender: str
    recipients: list[str]
    source: bytes
    """The octets between DATA and the final dot, without dot-stuffing."""
    mail_options: list[str] = field(default_factory=list)
    """The parameters of MAIL, such as `BODY=8BITMIME`."""

    @property
    def parsed(self) -> EmailMessage:
        message = email.message_from_bytes(self.source, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message

    def part(self, kind: Literal["plain", "html"]) -> str:
        """Return the text or the HTML, decoded."""
        part = self.parsed.get_body((kind,))
        assert part is not None
        return str(part.get_content())

    @property
    def link(self) -> str:
        """Return the first verification link in the text."""
        found = re.search(r"http\S+/accounts/verify/\S+", self.part("plain"))
        assert found, self.part("plain")
        return found[0]


@dataclass(slots=True)
class Script:
    """The answers of the server: the next entry of `once`, else `always`, else `sometimes` with its probability, else the
    normal reply.
    """

    once: dict[Phase, deque[str]] = field(default_factory=dict)
    always: dict[Phase, str] = field(default_factory=dict)
    sometimes: dict[Phase, tuple[float, str]] = field(default_factory=dict)
    rng: random.Random = field(default_factory=random.Random)
    to: dict[str, str] = field(default_factory=dict)
    """The answers to RCPT by address; they come first."""

    def reply(self, phase: Phase) -> str | None:
        if waiting := self.once.get(phase):
            return waiting.popleft()
        if phase in self.always:
            return self.always[phase]
        chance, reply = self.sometimes.get(phase, (0.0, ""))
        return reply if self.rng.random() < chance else None


class _Conversation(SMTP):
    """aiosmtpd's server with the two phases that handlers cannot script."""

    event_handler: "Sink"

    async def _handle_client(self) -> None:
        sink = self.event_handler
        sink.connections += 1
        reply = await sink.scripted("CONNECT") or (None if sink.open < sink.most_open else sink.TOO_MANY)
        if reply is None:
            sink.open += 1
            try:
                await super()._handle_client()
            finally:
                sink.open -= 1
        else:
            await self.event_handler.answer(self, reply, send=True)
            assert self.transport is not None
            self.transport.close()

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802
        reply = await self.event_handler.scripted("DATA")
        if reply is None:
            await super().smtp_DATA(arg)
        else:
            await self.event_handler.answer(self, reply, send=True)


class Sink:
    """`with Sink() as sink:` … `sink.received`, `sink.script.once["RCPT"] = deque(["451 4.3.0 later"])`."""

    TOO_MANY = "421 4.7.0 sink.example Error: too many connections from 127.0.0.1"

    def __init__(
        self, *, user: str = "", password: str = "", without: Collection[str] = (), most_open: float = math.inf
    ) -> None:
        """`without` names extensions that it does not announce: `8BITMIME`, `SMTPUTF8`, `PIPELINING`. `most_open` limits its
        connections.
        """
        self.without = without
        self.received: list[Received] = []
        self.script = Script()
        self.most_open = most_open
        self.open = 0
        """The number of connections now; `connections` is how many there were."""
        self.connections = 0
        self._conversations: list[SMTP] = []
        self._login = (user.encode(), password.encode()) if user else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> "Sink":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(self._conversation, "127.0.0.1", self.port)

    def close_all_connections(self) -> None:
        """Close every open connection and keep listening, as after a restart."""

        async def hang_up() -> None:
            for conversation in self._conversations:
                if conversation.transport is not None:
                    conversation.transport.close()
            self._conversations.clear()

        asyncio.run_coroutine_threadsafe(hang_up(), self._loop).result(5)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse connections meanwhile, as while it does not run."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.close_all_connections()
        try:
            yield
        finally:
            self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)

    async def _hang_up(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for conversation in self._conversations:
            if conversation.transport is not None:
                self.hang_up_on(conversation)  # a client may still wait for an answer
        await asyncio.sleep(0)  # in which the loop closes them

    def _conversation(self) -> SMTP:
        conversation = _Conversation(
            self,
            hostname="sink.example",
            auth_require_tls=False,
            auth_required=self._login is not None,
            authenticator=self._authenticate if self._login else None,
            decode_data=False,
            enable_SMTPUTF8="SMTPUTF8" not in self.without,
            loop=self._loop,
        )
        self._conversations.append(conversation)
        return conversation

    @property
    def url(self) -> str:
        """The value for EMAIL_URL."""
        login = f"{self._login[0].decode()}:{self._login[1].decode()}@" if self._login else ""
        return f"smtp://{login}127.0.0.1:{self.port}"

    # aiosmtpd calls the following methods in its own thread.

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        reply = await self.scripted("EHLO")
        announced = [line for line in [responses[0], "250-PIPELINING", *responses[1:]] if line[4:] not in self.without]
        return announced if reply is None else [await self.answer(server, reply)]

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = await self.scripted("MAIL")
        if reply is not None:
            return await self.answer(server, reply)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self.script.to.get(address) or await self.scripted("RCPT")
        if reply is not None:
            return await self.answer(server, reply)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        reply = self.script.reply("BODY")
        if reply in (None, CUT, HANG, SLOW):
            assert isinstance(envelope.content, bytes)
            self.received.append(
                Received(
                    envelope.mail_from or "", list(envelope.rcpt_tos), envelope.content, list(envelope.mail_options)
                )
            )
        if reply == SLOW:
            await asyncio.sleep(1)
        elif reply is not None:
            return await self.answer(server, reply)
        return f"250 2.0.0 Ok: queued as {len(self.received)}"

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        return AuthResult(success=(data.login, data.password) == self._login, handled=False)

    async def scripted(self, phase: Phase) -> str | None:
        """Return the scripted answer of this phase; None is the normal one."""
        reply = self.script.reply(phase)
        if reply != SLOW:
            return reply
        await asyncio.sleep(1)
        return None

    async def answer(self, server: SMTP, reply: str, *, send: bool = False) -> str:
        """Give a scripted reply: a line, a cut or silence."""
        if reply == CUT:
            self.hang_up_on(server)
            await asyncio.sleep(3600)  # aiosmtpd cancels this when the connection ends
        if reply == HANG:
            await asyncio.sleep(3600)
        if send:
            await server.push(reply)
        return reply

    def hang_up_on(self, server: SMTP) -> None:
        """Close the connection without a reply."""
        assert isinstance(server.transport, asyncio.Transport)
        server.transport.abort()
