"""The list of messages: the text of each row and of the search, read once and then kept in memory."""

import html
import re
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from zlib import crc32

from local.inbox.reading import read, readable
from local.inbox.store import Missing, Store, received

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
    recipients: tuple[str, ...]
    subject: str
    snippet: str
    message_id: str
    received: datetime
    size: int
    attachments: int
    haystack: str

    @property
    def initial(self) -> str:
        """The letter on the coloured disc of the row."""
        return next((letter.upper() for letter in self._first_recipient if letter.isalnum()), "?")

    @property
    def tone(self) -> int:
        """The colour of the disc, one per recipient."""
        return crc32(self._first_recipient.encode()) % TONES

    @property
    def _first_recipient(self) -> str:
        return self.recipients[0] if self.recipients else ""


class Listing:
    """The summaries of the messages in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[str, Summary] = {}
        self._lock = Lock()

    def newest_first(self, query: str = "") -> list[Summary]:
        """Return the messages that contain every word of the query: in an address, the subject, the body, a file name."""
        words = query.casefold().split()
        return [summary for summary in self._all() if all(word in summary.haystack for word in words)]

    def summary(self, message_id: str) -> Summary:
        """Return one message. Raises Missing."""
        return self._known.get(message_id) or summarise(self.store, message_id)

    def revision(self) -> str:
        """Return a text that changes whenever the list does."""
        ids = self.store.ids()
        return f"{len(ids)}.{ids[0] if ids else ''}"

    def _all(self) -> list[Summary]:
        with self._lock:
            self._known = {summary.id: summary for summary in map(self._known_or_new, self.store.ids()) if summary}
            return list(self._known.values())

    def _known_or_new(self, message_id: str) -> Summary | None:
        try:
            return self.summary(message_id)
        except Missing:  # it was deleted after the directory was read
            return None


def summarise(store: Store, message_id: str) -> Summary:
    """Read a message for the list. Raises Missing."""
    source, envelope = store.source(message_id), store.envelope(message_id)
    reading = read(source)
    sender, recipients = readable(envelope.sender), tuple(map(readable, envelope.recipients))
    named = map(reading.header, ("From", "To", "Cc", "Subject"))
    text, markup = _words(reading.text or ""), _words_of_markup(reading.html or "")
    attachments = [part.filename for part in reading.parts if not part.embedded]
    searched = (sender, *recipients, *named, text, markup, *attachments)
    return Summary(
        id=message_id,
        sender=reading.header("From") or sender,
        envelope_sender=sender,
        recipients=recipients,
        subject=reading.header("Subject"),
        snippet=(text or markup)[:SNIPPET],
        message_id=reading.header("Message-ID"),
        received=received(message_id),
        size=len(source),
        attachments=len(attachments),
        haystack="\n".join(searched).casefold(),
    )


def _words(text: str) -> str:
    """Return the searchable start of a text, on one line."""
    return " ".join(text[:MAX_SEARCHED].split())


def _words_of_markup(markup: str) -> str:
    """Return the visible text of the HTML."""
    shown = HIDDEN.sub(" ", markup[:MAX_SEARCHED])
    return _words(html.unescape(TAG.sub(" ", shown)))
