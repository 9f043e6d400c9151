"""What a mail looks like: previews of every kind, built from its sample, and the mail of a message, built again."""

import email
import inspect
import re
import traceback
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage as Parsed
from functools import cached_property
from html import escape
from typing import Any
from urllib.parse import unquote

from django.conf import global_settings, settings
from django.core.mail import EmailMessage
from django.db import Error as DatabaseFault
from django.db import connections, transaction

from mailer.composing.message import build
from mailer.conf import sender_domain
from mailer.email import KINDS, Email, UnknownKind, kinds
from mailer.email import find as find_kind
from mailer.models import Message
from mailer.text import hide_codes

CLIPPED = 102 * 1024
"""Gmail hides HTML after this number of bytes, and maybe the unsubscribe link with it."""
CID = re.compile(r"\bcid:([^\"'\s)>]+)", re.IGNORECASE)


class NoPreview(Exception):
    """The kind could not be built; the text says why, and names the file if it is known."""


class NoSample(NoPreview):
    """Its sample() failed."""


class NeedsDatabase(NoSample):
    """The sample or its message queries the database, which previews must not need."""


@dataclass(frozen=True)
class Preview:
    """A mail in one language, parsed from the bytes that SMTP would transmit (RFC 5322)."""

    mail: Email
    language: str
    source: bytes
    hides_codes: bool = False
    """Whether subject, headers and bodies are shown without what makes their links work. The source is as it is."""

    @cached_property
    def _parsed(self) -> Parsed:
        return email.message_from_bytes(self.source, policy=policy.default)

    @property
    def name(self) -> str:
        """The name of its files without the suffix: `accounts.VerifyAddress.th`."""
        return f"{self.mail.kind}.{self.language}"

    @property
    def subject(self) -> str:
        return self._shown(str(self._parsed["Subject"] or ""))

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The decoded header fields, in order."""
        return [(name, self._shown(str(value))) for name, value in self._parsed.items()]

    @cached_property
    def text(self) -> str:
        """The plain text, or an empty string."""
        return self._body("plain")

    @cached_property
    def html(self) -> str:
        """The HTML document, or an empty string."""
        return self._body("html")

    @property
    def page(self) -> str:
        """A page for a browser: the HTML with inline images as data: URLs, or else the text."""
        images = {
            str(part["Content-ID"]).strip().strip("<>"): _data_url(part)
            for part in self._parsed.walk()
            if part["Content-ID"] and part.get_content_maintype() == "image"
        }
        html = self.html or f'<!DOCTYPE html>\n<meta charset="utf-8">\n<pre>{escape(self.text)}</pre>\n'
        return CID.sub(lambda found: images.get(unquote(found[1]), found[0]), html)

    @property
    def attachments(self) -> list[tuple[str, str, int]]:
        """Name, content type and size in bytes of each file that is not an inline image."""
        return [
            (part.get_filename() or "", part.get_content_type(), len(part.get_payload(decode=True) or b""))
            for part in self._parsed.iter_attachments()
            if not part["Content-ID"]
        ]

    @property
    def files(self) -> dict[str, bytes]:
        """The content of its files, by suffix."""
        return {".txt": self.text.encode(), ".html": self.page.encode(), ".eml": self.source}

    def _body(self, kind: str) -> str:
        part = self._parsed.get_body((kind,))
        return self._shown(str(part.get_content()).replace("\r\n", "\n")) if part else ""

    def _shown(self, text: str) -> str:
        return hide_codes(text) if self.hides_codes else text


def _data_url(image: Any) -> str:
    content: bytes = image.get_payload(decode=True) or b""
    return f"data:{image.get_content_type()};base64,{b64encode(content).decode()}"


def all_kinds() -> list[type[Email]]:
    """Return every kind by name, except base classes: these have subclasses and no template."""
    return [kind for kind in kinds() if hasattr(kind, "template") or not kind.__subclasses__()]


def summary(kind: type[Email]) -> str:
    """Return the first line of the kind's docstring, or an empty string."""
    return next(iter((kind.__dict__.get("__doc__") or "").strip().splitlines()), "")


def languages() -> list[str]:
    """Return the site's languages, in the order of settings.LANGUAGES."""
    if settings.LANGUAGES == global_settings.LANGUAGES:  # Django's default: a hundred languages
        return [settings.LANGUAGE_CODE]
    return [code for code, _ in settings.LANGUAGES]


def find(name: str) -> type[Email]:
    """Find a kind by its name, `accounts.VerifyAddress`, or by its class, `verifyaddress`. Raises UnknownKind."""
    wanted = name.lower()
    found = {kind for known, kind in KINDS.items() if wanted in (known.lower(), known.lower().rpartition(".")[2])}
    if len(found) == 1:
        return found.pop()
    names = ", ".join(sorted(kind.kind for kind in found or all_kinds()))
    raise UnknownKind(f"{'several' if found else 'no'} kinds have the name {name!r}; choose from {names}")


def preview(kind: type[Email], language: str | None = None) -> Preview:
    """Build the sample in this language (None: the site's). Raises NoPreview."""
    language = language or settings.LANGUAGE_CODE
    mail, message = build_sample(kind, language)
    with _explained(NoPreview, kind):
        return Preview(mail, language, message.message(policy=policy.SMTP).as_bytes())


def build_sample(kind: type[Email], language: str) -> tuple[Email, EmailMessage]:
    """Return the sample of a kind and its message in this language. Raises NoPreview."""
    with _without_database(kind):
        with _explained(NoSample, kind):
            mail = kind.sample()
        with _explained(NoPreview, kind):
            return mail, build(mail, f"<preview@{sender_domain()}>", language=language)


def rebuild(message: Message) -> Preview:
    """Build the mail of a message as it would be built now, without what makes its links work. Raises NoPreview.

    A mail that Django built is the one that was or will be sent. Whoever looks changes nothing: what the e-mail's own code
    writes, such as a new link in place of an old one, is rolled back.
    """
    try:
        kind = find_kind(message.kind)
    except UnknownKind as error:
        raise NoPreview(str(error)) from None
    with _explained(NoPreview, kind), transaction.atomic():
        mail = kind.load(message.arguments)
        source = build(mail, message.message_id_header).message(policy=policy.SMTP).as_bytes()
        language = mail.recipient().language or settings.LANGUAGE_CODE
        transaction.set_rollback(True)
    return Preview(mail, language, source, hides_codes=True)


@contextmanager
def _explained(failure: type[NoPreview], kind: type[Email]) -> Iterator[None]:
    """Raise any error as `failure`, with the innermost line in the kind's own module, if there is one."""
    try:
        yield
    except (NoPreview, DatabaseFault):
        raise
    except Exception as error:  # a sample, a template or an e-mail class may raise anything
        file = inspect.getsourcefile(kind)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        lines = [f"{frame.filename}, line {frame.lineno}, in {frame.name}()" for frame in frames[-1:]]
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        raise failure(": ".join([*getattr(error, "__notes__", ()), *lines, what])) from error


@contextmanager
def _without_database(kind: type[Email]) -> Iterator[None]:
    """Refuse all queries, so that a preview is the same with and without a database."""

    def refuse(execute: Any, sql: str, *_: Any) -> None:
        raise NeedsDatabase(f"the sample of {kind.kind} queries the database; build it from unsaved instances")

    try:
        with ExitStack() as stack:
            for connection in connections.all():
                stack.enter_context(connection.execute_wrapper(refuse))
            yield
    except DatabaseFault as error:  # the database is unavailable
        raise NeedsDatabase(f"the sample of {kind.kind} queries the database ({type(error).__name__})") from None
