"""What a kind of e-mail looks like, from its sample: the data of a gallery, and what `manage.py check` looks at."""

import email
import inspect
import re
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from email import policy
from email.message import EmailMessage as Parsed
from email.message import MIMEPart
from enum import StrEnum
from functools import cached_property
from html import escape
from typing import Any
from urllib.parse import unquote

from django.conf import global_settings, settings
from django.core.mail import EmailMessage
from django.db import Error as DatabaseFault
from django.db import connections

from mailer.composing.message import build
from mailer.conf import sender_domain
from mailer.email import KINDS, Email, Recipient, UnknownKind, kinds

CID = re.compile(r"\bcid:([^\"'\s)>]+)", re.IGNORECASE)


class Step(StrEnum):
    """How far the way from a kind to a message went."""

    SAMPLE = "sample"
    MESSAGE = "message"
    """Templates, header fields, attachments."""


class NoPreview(Exception):
    """There is nothing to look at; the text says why, and names the file as far as it is known."""

    def __init__(self, step: Step, reason: str) -> None:
        super().__init__(reason)
        self.step = step


class NeedsDatabase(NoPreview):
    """The sample, or what is made of it, asks the database, which may be empty or away where previews are made."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample and the message that was built from it."""

    mail: Email
    message: EmailMessage
    source: bytes
    """The message as SMTP would carry it (RFC 5322): what no header field may hold shows only here."""


@dataclass(frozen=True)
class Preview:
    """One kind in one language, read back from the bytes that would be transmitted."""

    kind: type[Email]
    language: str
    source: bytes
    """The message as SMTP would carry it (RFC 5322)."""

    @cached_property
    def _parsed(self) -> Parsed:
        return email.message_from_bytes(self.source, policy=policy.default)

    @property
    def name(self) -> str:
        """What its files are called, but for their ending: `accounts.VerifyAddress.th`."""
        return f"{self.kind.kind}.{self.language}"

    @property
    def subject(self) -> str:
        return str(self._parsed["Subject"])

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields as a reader's mail client decodes them, in their order."""
        return [(name, str(value)) for name, value in self._parsed.items()]

    @cached_property
    def text(self) -> str:
        """The plain text; empty if there is none."""
        return self._body("plain")

    @cached_property
    def html(self) -> str:
        """A whole document that needs nothing beside it: inline images are data: URLs. Empty if the message has text alone."""
        images = {_content_id(part): _data_url(part) for part in self._parsed.walk() if part["Content-ID"]}
        return CID.sub(lambda found: images.get(unquote(found[1]), found[0]), self._body("html"))

    @property
    def page(self) -> str:
        """What a browser can show: the HTML, or the text as a page."""
        return self.html or f'<!DOCTYPE html>\n<meta charset="utf-8">\n<pre>{escape(self.text)}</pre>\n'

    @property
    def attachments(self) -> list[tuple[str, str, int]]:
        """Name, content type and bytes of each file that is no inline image."""
        parts = [part for part in self._parsed.iter_attachments() if not part["Content-ID"]]
        return [(part.get_filename() or "", part.get_content_type(), len(_bytes(part))) for part in parts]

    @property
    def size(self) -> int:
        """Bytes of the whole message."""
        return len(self.source)

    def _body(self, kind: str) -> str:
        part = self._parsed.get_body((kind,))
        return str(part.get_content()).replace("\r\n", "\n") if part else ""


def _content_id(part: MIMEPart) -> str:
    return str(part["Content-ID"]).strip().strip("<>")


def _data_url(part: MIMEPart) -> str:
    return f"data:{part.get_content_type()};base64,{b64encode(_bytes(part)).decode()}"


def _bytes(part: MIMEPart) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def all_kinds() -> list[type[Email]]:
    """Every kind that can be looked at, by name. A class without a template that others inherit from is none."""
    return [kind for kind in kinds() if not is_base(kind)]


def is_base(kind: type[Email]) -> bool:
    """Whether it only holds what other kinds have in common."""
    return not hasattr(kind, "template") and bool(kind.__subclasses__())


def summary(kind: type[Email]) -> str:
    """The first line of its docstring, if it has one of its own."""
    return next(iter((kind.__dict__.get("__doc__") or "").strip().splitlines()), "")


def languages() -> list[str]:
    """The languages of the site, in the order of settings.LANGUAGES; where that is Django's own list of a hundred, the one of
    LANGUAGE_CODE."""
    if settings.LANGUAGES == global_settings.LANGUAGES:
        return [settings.LANGUAGE_CODE]
    return [code for code, _ in settings.LANGUAGES]


def find(name: str) -> type[Email]:
    """The kind of this name, `accounts.VerifyAddress`, or of this class, `verifyaddress`. Raises UnknownKind."""
    wanted = name.lower()
    found = {kind for known, kind in KINDS.items() if wanted in (known.lower(), known.lower().rpartition(".")[2])}
    if len(found) == 1:
        return found.pop()
    if found:
        raise UnknownKind(f"there are several kinds of the name {name!r}: {_names(found)}")
    raise UnknownKind(f"there is no kind {name!r}; {_suggestion(wanted)}")


def _suggestion(wanted: str) -> str:
    spellings = {
        spelling.lower(): kind for kind in all_kinds() for spelling in (kind.kind, kind.kind.rpartition(".")[2])
    }
    close = {spellings[spelling] for spelling in get_close_matches(wanted, spellings, n=3)}
    return f"did you mean {_names(close, ' or ')}?" if close else f"there are {_names(set(all_kinds()))}"


def _names(found: set[type[Email]], glue: str = ", ") -> str:
    return glue.join(sorted(kind.kind for kind in found))


def preview(kind: type[Email], language: str | None = None) -> Preview:
    """What the sample looks like, to somebody who reads this language (None: the site's). Raises NoPreview."""
    language = language or settings.LANGUAGE_CODE
    return Preview(kind, language, build_sample(kind, language).source)


def build_sample(kind: type[Email], language: str) -> Sample:
    """The sample and its message, to a recipient who reads this language. Raises NoPreview."""
    with _without_database(kind):
        mail = _step(Step.SAMPLE, kind, kind.sample)
        message_id = f"<preview@{sender_domain()}>"
        message = _step(Step.MESSAGE, kind, lambda: build(mail, message_id, language=language))
        source = _step(Step.MESSAGE, kind, lambda: message.message(policy=policy.SMTP).as_bytes())
        return Sample(mail, message, source)


def recipient_of(sample: Email, language: str) -> Recipient:
    """The sample's recipient as one who reads this language."""
    return replace(sample.recipient(), language=language)


def _step[T](step: Step, kind: type[Email], do: Callable[[], T]) -> T:
    try:
        return do()
    except (NoPreview, DatabaseFault):
        raise
    except Exception as error:  # a sample, a template or an e-mail class may raise anything
        where = [*getattr(error, "__notes__", ()), *_line_of(kind, error)]
        raise NoPreview(step, ": ".join([*where, f"{type(error).__name__}: {error}".rstrip(": ")])) from error


def _line_of(kind: type[Email], error: Exception) -> Iterator[str]:
    """The innermost line of the kind's own module that led there."""
    file = inspect.getsourcefile(kind)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file:
            yield f"{frame.filename}, line {frame.lineno}, in {frame.name}()"
            return


@contextmanager
def _without_database(kind: type[Email]) -> Iterator[None]:
    """Turns a query away before it is made, be there a database or not, so that a preview is the same everywhere."""

    def refuse(execute: Any, sql: str, *_: Any) -> None:
        raise NeedsDatabase(Step.SAMPLE, f"the sample of {kind.kind} asks the database; make it of unsaved instances")

    try:
        with ExitStack() as stack:
            for connection in connections.all():
                stack.enter_context(connection.execute_wrapper(refuse))
            yield
    except DatabaseFault as error:  # it is away, so not even a cursor could be had
        raise NeedsDatabase(
            Step.SAMPLE, f"the sample of {kind.kind} asks the database ({type(error).__name__})"
        ) from None
