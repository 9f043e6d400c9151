"""Read bounces from a mailbox by IMAP. A mail is marked as read after its reports are stored."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import unquote

import structlog
from django.db import Error

from mailer.database import is_away
from mailer.feedback.opened import LONGEST
from mailer.server_url import split
from mailer.text import in_words, mask

if TYPE_CHECKING:  # an extra
    from imapclient import IMAPClient

log = structlog.get_logger(__name__)

MOST = 500
"""Mails of one run."""
LONGEST_RUN = 45.0
"""Seconds after which a run takes no further mail."""
CONNECT, SILENCE = 10, 30
"""Seconds that the server may take to answer: at first, and later."""


class NotRead(Exception):
    """The mailbox cannot be read. The text says why and has no secret."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The parts of a URL such as `imaps://user:password@mail.example.com/INBOX`."""

    host: str
    port: int | None
    user: str
    password: str
    folder: str
    has_tls: bool

    @classmethod
    def from_url(cls, url: str) -> "Mailbox":
        """Return the parts of a URL that the settings have checked."""
        parts = split(url)
        folder = unquote(parts.path.strip("/")) or "INBOX"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.hostname or "", parts.port, user, password, folder, parts.scheme == "imaps")


@dataclass(slots=True)
class Run:
    """What a run did."""

    mails: int = 0
    reports: int = 0
    failed: int = 0

    def __str__(self) -> str:
        failed = f", {self.failed} could not be stored" if self.failed else ""
        return f"{self.mails} mails read, {self.reports} reports stored{failed}"


def read(mailbox: Mailbox, take: Callable[[bytes], int], *, delete: bool = False) -> Run:
    """Give each unread mail to `take`, which stores it and returns the number of reports, and mark it as read.

    With `delete`, a mail that reported something is deleted. A mail that cannot be stored stays unread. Raises NotRead, and
    the errors of a database that is away.
    """
    run, ends = Run(), time.monotonic() + LONGEST_RUN
    with _opened(mailbox) as client:
        for uid in sorted(client.search(["UNSEEN", "UNDELETED"]))[:MOST]:
            if time.monotonic() > ends:
                break
            _read_one(client, uid, take, run, delete=delete)
    return run


def _read_one(client: "IMAPClient", uid: int, take: Callable[[bytes], int], run: Run, *, delete: bool) -> None:
    fetched = client.fetch([uid], [f"BODY.PEEK[]<0.{LONGEST}>"]).get(uid, {})
    raw = fetched.get(b"BODY[]<0>")
    if raw is None:  # somebody deleted it meanwhile
        return
    try:
        reports = take(raw)
    except Error as error:
        if is_away(error):
            raise
        log.exception("a bounce could not be stored", uid=uid)
        run.failed += 1
        return
    run.mails += 1
    run.reports += reports
    client.add_flags([uid], [rb"\Seen"])
    if delete and reports:
        client.delete_messages([uid])
        client.expunge([uid])


@contextmanager
def _opened(mailbox: Mailbox) -> "Iterator[IMAPClient]":
    """Connect, log in and select the folder; translate every error of the network and of the server."""
    from imapclient import IMAPClient, SocketTimeout
    from imapclient.exceptions import IMAPClientError

    try:
        timeout = SocketTimeout(connect=CONNECT, read=SILENCE)
        with IMAPClient(mailbox.host, mailbox.port, ssl=mailbox.has_tls, timeout=timeout) as client:
            if not mailbox.has_tls and not _is_this_machine(mailbox.host):
                client.starttls(ssl.create_default_context())
            is_ascii = (mailbox.user + mailbox.password).isascii()
            log_in = client.login if is_ascii else client.plain_login
            log_in(mailbox.user, mailbox.password)
            client.select_folder(mailbox.folder)
            yield client
    except (IMAPClientError, OSError) as error:
        raise NotRead(mask(in_words(error)).replace(mailbox.password, "***")) from None


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
