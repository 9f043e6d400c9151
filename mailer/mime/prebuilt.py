"""MIME that must not change: attached parts, and messages of classes that build their own MIME (S/MIME, OpenPGP), because a
signature covers the exact bytes."""

import email.message
import re
from collections.abc import Collection
from email import policy
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
"""The methods that build a message; a class that overrides one of them builds other MIME than Django."""

REDIRECTED = ("from", "to", "cc", "reply-to")
"""Header fields that do not change when the message is redirected."""


class _AsRead(policy.EmailPolicy):
    """Write header fields exactly as they were read."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, Any]:
        source = LINE_END.split("".join(sourcelines).rstrip("\r\n"))
        name, _, value = "".join(source).partition(":")
        header: Any = self.header_factory(name, value.lstrip(" \t"))
        header.fold = lambda *, policy: policy.linesep.join([*source, ""])
        return name, header


AS_READ = _AsRead(linesep="\r\n")


class Prebuilt(EmailMultiAlternatives):
    """A message with stored MIME. Its attributes hold the same content for providers' APIs, which build their own MIME."""

    source: bytes = b""
    """The MIME, with CRLF."""
    _original: tuple[str, Collection[str]] = ("", ())

    def track_changes(self) -> None:
        """Apply later changes of the subject and additional headers to the header of the MIME."""
        self._original = (str(self.subject), frozenset(self.extra_headers))

    def message(self, *, policy: Any = policy.default) -> email.message.EmailMessage:
        """Return the MIME, with the changes and the current Message-ID of `extra_headers`."""
        message = parse(self.source, Verbatim)
        header = b"".join(AS_READ.fold_binary(name, value) for name, value in message.raw_items())
        message.rest = self.source.removeprefix(header) if self.source.startswith(header) else None
        for name, value in self._changes().items():
            if name not in message:
                message[name] = value
            elif str(message[name]) != value:
                message.replace_header(name, value)
        message.policy = policy
        return message

    def _changes(self) -> dict[str, str]:
        subject, names = self._original
        changes = {} if str(self.subject) == subject else {"Subject": str(self.subject)}
        for name, value in self.extra_headers.items():
            if name.lower() == "message-id" or (name not in names and name.lower() not in REDIRECTED):
                changes[name] = str(value)
        return changes


def is_prebuilt(message: EmailMessage) -> bool:
    """Return whether the message's class builds other MIME than Django's classes."""
    for name in BUILDERS:
        djangos = (getattr(EmailMessage, name), getattr(EmailMultiAlternatives, name))
        if name in vars(message) or getattr(type(message), name) not in djangos:
            return True
    return False


def parse[Kind: email.message.EmailMessage](source: bytes, kind: type[Kind]) -> Kind:
    """Parse MIME that will be written exactly as it was read."""
    parser: Any = BytesParser(kind, policy=AS_READ)  # the type stubs lack modern policies
    parsed: Kind = parser.parsebytes(source)
    return parsed
