"""The list of messages: the text of each row and of the search, read once and then kept in memory."""

import html
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

from local.inbox.reading import read, readable
from local.inbox.store import WHEN, Missing, Store

# Characters of a body that are searched. A message of 10 MB must not stay in memory after it was listed.
MAX_SEARCHED = 100_000
SNIPPET = 160
TONES = 6

# Neither reads a character twice, even if tags are never closed.
TAG = re.compile(r"<[^<>]*>")
HIDDEN = re.compile(r"<(style|script|title)\b(?:(?!</\1).)*+(?:</\1|\Z)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Summary:
    """One row of the list."""

    id: str
    sender: str
    envelope_sender: str
    recipients: list[str]
    subject: str
    snippet: str
    message_id: str
    received: datetime  # in the time zone of this machine
    size: int
    attachments: int
    haystack: str

    @property
    def initial(self) -> str:
        """The letter on the coloured disc of the row."""
        return next((letter.upper() for letter in "".join(self.recipients[:1]) if letter.isalnum()), "?")

    @property
    def tone(self) -> int:
        """The colour of the disc, one per recipient."""
        return crc32("".join(self.recipients[:1]).encode()) % TONES


class Listing(Store):
    """A store that can be listed and searched."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._known: dict[str, Summary] = {}

    def newest_first(self, query: str = "") -> list[Summary]:
        """Return the messages that contain every word of the query: in an address, the subject, the body, a file name."""
        known = {}
        for message_id in self.ids():
            with suppress(Missing):  # it was deleted after the directory was read
                known[message_id] = self.summary(message_id)
        self._known = known
        words = query.casefold().split()
        return [summary for summary in known.values() if all(word in summary.haystack for word in words)]

    def revision(self) -> str:
        """Return a text that changes whenever the list does."""
        ids = self.ids()
        return f"{len(ids)}.{ids[0] if ids else ''}"

    def summary(self, message_id: str) -> Summary:
        """Return one message. Raises Missing."""
        if message_id in self._known:
            return self._known[message_id]
        source, (sender, recipients) = self.source(message_id), self.envelope(message_id)
        reading = read(source)
        sender, recipients = readable(sender), list(map(readable, recipients))
        named = map(reading.header, ("From", "To", "Cc", "Subject"))
        markup = HIDDEN.sub(" ", (reading.html or "")[:MAX_SEARCHED])
        text, markup = _words(reading.text or ""), _words(html.unescape(TAG.sub(" ", markup)))
        attachments = [part.filename for part in reading.parts if not part.embedded]
        return Summary(
            id=message_id,
            sender=reading.header("From") or sender,
            envelope_sender=sender,
            recipients=recipients,
            subject=reading.header("Subject"),
            snippet=(text or markup)[:SNIPPET],
            message_id=reading.header("Message-ID"),
            received=datetime.strptime(message_id.rpartition("-")[0], WHEN).replace(tzinfo=UTC).astimezone(),
            size=len(source),
            attachments=len(attachments),
            haystack="\n".join((sender, *recipients, *named, text, markup, *attachments)).casefold(),
        )


def _words(text: str) -> str:
    """Return the searchable start of a text, on one line."""
    return " ".join(text[:MAX_SEARCHED].split())
