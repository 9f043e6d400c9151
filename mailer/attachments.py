"""Attachments and inline images (`cid:`), from a storage or from memory."""

import mimetypes
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from email import policy
from email.message import MIMEPart
from typing import IO, Any

from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.core.files.storage import storages
from django.core.mail import EmailMessage

from mailer.conf import options
from mailer.outcomes import Unsendable

CHUNK = 1024 * 1024
"""Bytes to read at once: reading stops early if a file is too large."""

LONGEST_PARAMETER = 40
"""Characters of the name of a content type's parameter; Python loops forever folding one that is longer than a line."""
UNKNOWN_TYPE = "application/octet-stream"

NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
MISTAKES = (ImproperlyConfigured, SuspiciousOperation, AttributeError, LookupError, NameError, TypeError, ValueError)
"""Errors of a storage that are permanent: a retry would not help."""


class TooLarge(Unsendable):
    """The message would be larger than POSTCOMMIT_MAX_MESSAGE_SIZE."""


class StorageAway(Exception):
    """The storage is unavailable; the message is built again later."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in one of Django's storages (settings.STORAGES), opened when the mail is built."""

    path: str
    storage: str = "default"

    def open(self) -> IO[bytes]:
        """Open the file. Raises FileNotFoundError, one of MISTAKES, or StorageAway for all other errors."""
        try:
            with _storage_may_be_away(self.storage):
                return storages[self.storage].open(self.path, "rb")
        except NO_FILE:
            raise FileNotFoundError(f"no file {self.path!r} in the storage {self.storage!r}") from None


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file. Its content type (`text/calendar; method=REQUEST`) is guessed from the name by default.

    A file with a `content_id` is an inline image: `<img src="cid:logo" alt="…">` shows that with `content_id="logo"`.
    """

    name: str
    content: bytes | StoredFile
    content_type: str = ""
    content_id: str = ""


def attach(message: EmailMessage, attachments: Iterable[Attachment]) -> None:
    """Read the files and add them to the message, in order. Raises TooLarge, FileNotFoundError and StorageAway."""
    left = options().max_message_size
    for attachment in attachments:
        content = _read(attachment, left)
        left -= len(content)
        message.attach(_part(attachment, content))


def _part(attachment: Attachment, content: bytes) -> MIMEPart:
    header = _content_type(attachment)
    part = MIMEPart()
    part.set_content(
        content,
        maintype=header.maintype,
        subtype=header.subtype,
        disposition="inline" if attachment.content_id else "attachment",
        filename=attachment.name.replace("=?", "= ?"),  # Python would decode it (RFC 2047)
        cid=f"<{attachment.content_id}>" if attachment.content_id else None,
        params=dict(header.params),
    )
    return part


def _content_type(attachment: Attachment) -> Any:
    guessed = attachment.content_type or mimetypes.guess_type(attachment.name)[0] or UNKNOWN_TYPE
    header = policy.default.header_factory("Content-Type", guessed)
    has_long_parameter = any(len(name) > LONGEST_PARAMETER for name in header.params)
    # RFC 2046, 5.2.1 restricts the encoding of message and multipart.
    if header.defects or has_long_parameter or header.maintype in ("message", "multipart"):
        return _content_type(replace(attachment, content_type=UNKNOWN_TYPE))
    return header


def _read(attachment: Attachment, limit: int) -> bytes:
    content = attachment.content
    if isinstance(content, StoredFile):
        stored, content = content, b""
        with closing(stored.open()) as file, _storage_may_be_away(stored.storage):
            while len(content) <= limit and (chunk := file.read(CHUNK)):
                content += chunk
    if len(content) > limit:
        raise TooLarge(
            f"with the attachment {attachment.name!r} the message is larger than {options().max_message_size} bytes "
            "(POSTCOMMIT_MAX_MESSAGE_SIZE); send a link instead"
        )
    return content


@contextmanager
def _storage_may_be_away(storage: str) -> Iterator[None]:
    try:
        yield
    except (*NO_FILE, *MISTAKES):
        raise
    except Exception as error:  # each storage library raises its own exceptions, and few of them are OSErrors
        raise StorageAway(f"the storage {storage!r}: {type(error).__name__}") from error
