"""Read a list of addresses that get no mail from a CSV file: our own export, or what a provider lets you download.

A provider's file is understood by the names of its columns and its words, whatever their case, spaces and hyphens: those of
Postmark, SendGrid, Mailgun, Amazon SES, Brevo, Mailjet, Mandrill, SparkPost, MailerSend and Resend.
"""

import codecs
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TextIO

from mailer.addresses import PLAIN_MAILBOX, InvalidAddress, canonical, for_envelope, mailbox
from mailer.email import STREAM_NAME
from mailer.models import ALL_STREAMS, Cause
from mailer.text import replace_unstorable

OURS = ("address", "stream", "cause", "source", "reason", "created_at")
"""The columns of our own export."""

ADDRESS = ("address", "email", "emailaddress", "recipient", "recipientemail", "contactemail", "mail", "to", "contact")
CAUSE = (
    "cause",
    "suppressionreason",
    "reason",
    "reasoncode",
    "type",
    "event",
    "status",
    "source",
    "origin",
    "category",
)
REASON = ("error", "errormessage", "detail", "details", "description", "message", "bouncereason", "response", "reason")
CREATED = (
    *(
        "createdat",
        "created",
        "createddate",
        "suppressedat",
        "blockedat",
        "bouncedat",
        "unsubscribedat",
        "addedat",
        "added",
    ),
    *("date", "datetime", "timestamp", "time", "lasteventat", "lastupdatetime", "updatedat", "updated"),
)
"""The names of columns, as `_word` has them, the best one first."""

WORDS: Mapping[Cause, str] = {
    Cause.BOUNCE: "bounce bounced hardbounce hardbounced hardbounces bouncerule "
    "invalid invalidemail invalidaddress undeliverable",
    Cause.BOUNCES: "bounces softbounce softbounced softbounces",
    Cause.COMPLAINT: "complaint complaints complained spam spamcomplaint spamreport spamreports markedasspam abuse "
    "contactflaggedasspam",
    Cause.UNSUBSCRIBE: "unsubscribe unsubscribed unsubscribes unsub optout optedout listunsubscribe unsubscribelink "
    "globalunsubscribe unsubscribedviama unsubscribedviaemail unsubscribedviaapi recipient",
    Cause.OPERATOR: "operator manual manuallyadded manualblock adminblocked custom customer admin compliance blocklist "
    "blocklisted blacklist blacklisted",
}
"""Postmark writes `ManualSuppression`, and in the column of the origin whether the `Recipient` or the `Customer` did it."""
CAUSES = {word: cause for cause, words in WORDS.items() for word in words.split()}
GETS_MAIL = frozenset(
    ["subscribed", "resubscribed", "active", "confirmed", "valid", "delivered", "sent", "opened", "clicked"]
)
"""A list of all contacts has them too."""

SAMPLE = 65_536
"""Bytes by which the encoding is told."""
SHOWN = 60
"""Characters of what was read that a sentence shows."""
ARCHIVES = {b"PK": "an Excel workbook or a zip archive", b"\x1f\x8b": "compressed", b"%PDF": "a PDF"}


class Entry(NamedTuple):
    """A line of the file, in the order of OURS."""

    address: str
    stream: str
    cause: str
    source: str
    reason: str
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class Wrong:
    """A line that cannot be read, with the reason."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class GetsMail:
    """A line that says that the address gets mail."""


class NoList(ValueError):
    """The file is no list of addresses. The text says what it is."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the values of a line stand."""

    places: Mapping[str, int]
    cause: Cause | None
    """Of a line without a word that is known."""
    source: str
    is_ours: bool
    """Whether it is our own export, whose values are kept as they are."""

    def first(self, line: Sequence[str], names: Sequence[str]) -> str:
        """Return the first value of these columns that is not empty."""
        values = (line[place] for name in names if (place := self.places.get(name, len(line))) < len(line))
        return next((text for value in values if (text := value.strip())), "")

    def entry(self, line: Sequence[str]) -> Entry | GetsMail:
        """Return what the line says. Raises ValueError with a sentence."""
        address = _address(self.first(line, ADDRESS))
        words = (_word(self.first(line, [name])) for name in CAUSE)
        word = next((word for word in words if word in CAUSES or word in GETS_MAIL), "")
        if word in GETS_MAIL:
            return GetsMail()
        cause = CAUSES.get(word, self.cause)
        if cause is None:
            said = self.first(line, CAUSE)
            what = f"what {_shown(said)} means is not known" if said else "it does not say why"
            raise ValueError(f"{what}; give --cause for such lines")
        return Entry(
            address,
            self._stream(line, cause),
            cause,
            self._source(line),
            self._reason(line, cause),
            self._created(line),
        )

    def _stream(self, line: Sequence[str], cause: Cause) -> str:
        """A provider's unsubscribe is of all streams: other mail, such as for a password, must go on."""
        if "stream" not in self.places:
            return ALL_STREAMS if cause == Cause.UNSUBSCRIBE else ""
        stream = self.first(line, ["stream"])
        if stream not in ("", ALL_STREAMS) and not STREAM_NAME.fullmatch(stream):
            raise ValueError(f"{_shown(stream)} is no name of a stream")
        return stream

    def _source(self, line: Sequence[str]) -> str:
        source = self.first(line, ["source"]) or self.source or ("" if self.is_ours else "import")
        return replace_unstorable(source)[:100]

    def _reason(self, line: Sequence[str], cause: Cause) -> str:
        if self.is_ours:
            return replace_unstorable(line[self.places["reason"]]) if len(line) > self.places["reason"] else ""
        said = f"{self.first(line, ['code'])} {self.first(line, REASON)}".strip()
        return replace_unstorable(said) or str(cause.label)

    def _created(self, line: Sequence[str]) -> datetime | None:
        return moment(self.first(line, CREATED))


def open_list(path: Path) -> TextIO:
    """Open a list in its encoding. Raises NoList, and OSError."""
    with path.open("rb") as file:
        sample = file.read(SAMPLE)
    if what := next((what for start, what in ARCHIVES.items() if sample.startswith(start)), ""):
        raise NoList(f"it is {what}; save it as CSV")
    return path.open(encoding=_encoding(sample), errors="replace", newline="")


def read(text: TextIO, cause: Cause | None, source: str) -> Iterator[Entry | Wrong | GetsMail]:
    """Yield what each line says. `cause` and `source` are for lines that name none. Raises NoList."""
    first = text.readline()
    if not first.strip():
        raise NoList("it is empty" if not first else "its first line is empty")
    delimiter = max(",;\t|", key=first.count)  # csv.Sniffer fails for a file with one column
    header = next(csv.reader([first], delimiter=delimiter))
    columns = Columns(_places(header), cause, source, is_ours=set(OURS) <= set(header))
    lines = csv.reader(text, delimiter=delimiter, strict=True)
    if not header_names(header):
        yield from _entries(columns, iter([header]), 0)
    yield from _entries(columns, lines, 1)


def header_names(header: Sequence[str]) -> bool:
    """Return whether the first line names columns. A mere list of addresses has no such line."""
    return not any(PLAIN_MAILBOX.fullmatch(name.strip()) for name in header)


def _places(header: Sequence[str]) -> Mapping[str, int]:
    if not header_names(header):
        return {"address": next(place for place, name in enumerate(header) if PLAIN_MAILBOX.fullmatch(name.strip()))}
    places = {_word(name): place for place, name in reversed(list(enumerate(header)))}
    if not any(name in places for name in ADDRESS):
        raise NoList(
            "no column is called email or address, and the first line has no address. "
            f"It begins with {_shown(', '.join(header))}"
        )
    return places


def _entries(columns: Columns, lines: Iterator[list[str]], before: int) -> Iterator[Entry | Wrong | GetsMail]:
    """Read line by line. One that cannot be read does not stop the others."""
    while True:
        number = before + getattr(lines, "line_num", 0) + 1
        try:
            line = next(lines)
            if any(value.strip() for value in line):
                yield columns.entry(line)
        except StopIteration:
            return
        except csv.Error as error:
            last = before + getattr(lines, "line_num", 0)
            where = f"; what follows up to line {last} was not read either" if last > number else ""
            yield Wrong(number, f"its quotation marks do not match ({error}){where}")
        except ValueError as error:
            yield Wrong(number, str(error))


def _address(text: str) -> str:
    if not text:
        raise ValueError("it has no address")
    if not (PLAIN_MAILBOX.fullmatch(text) or mailbox(text)) or "\ufffd" in text:
        raise ValueError(f"{_shown(text)} is no address")
    try:
        for_envelope(text)
    except InvalidAddress as error:
        raise ValueError(f"the address cannot be transmitted: {error}") from None
    return canonical(text)


def moment(text: str) -> datetime | None:
    """Convert a time as providers write it: ISO 8601, RFC 5322, or seconds since 1970. None if it cannot be read."""
    if re.fullmatch(r"[0-9]{9,10}", text):
        return datetime.fromtimestamp(int(text), UTC)
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            given = parse(text.removesuffix(" UTC"))
        except (ValueError, OverflowError, IndexError):
            continue
        return given if given.tzinfo else given.replace(tzinfo=UTC)
    return None


def _encoding(sample: bytes) -> str:
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in sample[:2]:
        return "utf-16-be" if sample[0] == 0 else "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return "cp1252"  # as Excel writes it on Windows
    return "utf-8-sig"


@lru_cache(maxsize=4096)
def _word(text: str) -> str:
    return re.sub("[^a-z]", "", text.lower())


def _shown(text: str) -> str:
    return repr(text[:SHOWN] + "…" if len(text) > SHOWN else text)
