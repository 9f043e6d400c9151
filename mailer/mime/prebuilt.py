"""MIME that somebody else made and nobody may touch: parts that were attached ready, and whole messages of classes that build
them in their own way (S/MIME, OpenPGP), whose signatures are over the very bytes."""

import email.message
import re
from collections.abc import Collection
from email import policy
from email.message import MIMEPart
from email.parser import BytesParser
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailer.mime.encoding import Verbatim

LINE_END = re.compile(r"\r\n|\r|\n")

BUILDERS = (
    "message",
    "recipients",
    "_add_bodies",
    "_add_attachments",
    "_add_attachment",
    "_set_list_header_if_not_empty",
    "_idna_encode_address_header_domains",
)
"""The methods of which a message is made; a class that overrides one of them makes others than Django would."""

REDIRECTED = ("from", "to", "cc", "reply-to")
"""Header fields that stay as they were made, wherever the message goes."""


class _AsRead(policy.EmailPolicy):
    """Reads header fields as objects, like any, that are written as they were read."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, Any]:
        source = LINE_END.split("".join(sourcelines).rstrip("\r\n"))
        name, _, value = "".join(source).partition(":")
        header: Any = self.header_factory(name, value.lstrip(" \t"))
        header.fold = lambda *, policy: policy.linesep.join([*source, ""])
        return name, header


AS_READ = _AsRead(linesep="\r\n")


class ReadyMade(EmailMultiAlternatives):
    """One whose MIME is stored. Its attributes say the same to providers' APIs, which make their own."""

    source: bytes = b""
    """The MIME, with CRLF."""
    _made_with: tuple[str, Collection[str]] = ("", ())

    def remember(self) -> None:
        """From now on, what is changed of the subject and added to the headers goes into the MIME's header."""
        self._made_with = (str(self.subject), frozenset(self.extra_headers))

    def message(self, *, policy: Any = policy.default) -> email.message.EmailMessage:
        """The MIME, with the Message-ID that `extra_headers` has by now."""
        message = _parse(self.source, Verbatim)
        message.rest = _without_header(message, self.source)
        for name, value in self._changes().items():
            if name not in message:
                message[name] = value
            elif str(message[name]) != value:
                message.replace_header(name, value)
        message.policy = policy
        return message

    def _changes(self) -> dict[str, str]:
        subject, names = self._made_with
        changes = {} if str(self.subject) == subject else {"Subject": str(self.subject)}
        for name, value in self.extra_headers.items():
            if name.lower() == "message-id" or (name not in names and name.lower() not in REDIRECTED):
                changes[name] = str(value)
        return changes


def _without_header(message: Verbatim, source: bytes) -> bytes | None:
    """None where the header cannot be told from the rest."""
    header = b"".join(AS_READ.fold_binary(name, value) for name, value in message.raw_items())
    return source.removeprefix(header) if source.startswith(header) else None


def is_ready_made(message: EmailMessage) -> bool:
    """Whether its class makes other messages of the same attributes than Django's own classes do."""
    return any(name in vars(message) or not _is_djangos(type(message), name) for name in BUILDERS)


def _is_djangos(kind: type[EmailMessage], name: str) -> bool:
    return getattr(kind, name) in (getattr(EmailMessage, name), getattr(EmailMultiAlternatives, name))


def parse(source: bytes) -> MIMEPart:
    """A part that is written, inside another message too, as it was read."""
    return _parse(source, email.message.EmailMessage)


def message_id(source: bytes) -> str:
    """The Message-ID in the header of this MIME; empty if there is none."""
    return str(parse(source)["Message-ID"] or "")


def _parse[Kind: email.message.EmailMessage](source: bytes, kind: type[Kind]) -> Kind:
    parser: Any = BytesParser(kind, policy=AS_READ)  # whose stubs know but the oldest policy
    parsed: Kind = parser.parsebytes(source)
    return parsed
