"""Store a message that Django built as a compressed document, and load it: both messages give the same bytes.

The document is JSON, not a pickle: loading it runs no code, and later releases can still read it.
"""

import json
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from email import policy
from email.headerregistry import AddressHeader
from email.message import EmailMessage as Entity
from email.message import Message
from email.utils import parseaddr
from typing import Any

from django.core.mail import EmailAlternative, EmailAttachment, EmailMessage, EmailMultiAlternatives
from django.utils.encoding import force_bytes, force_str, is_protected_type
from django.utils.functional import Promise

from mailer.addresses import DEEPEST_COMMENT, LONGEST_ENTRY, InvalidAddress, for_envelope
from mailer.attachments import TooLarge
from mailer.conf import options
from mailer.email import UnknownKind
from mailer.mime import encoding, prebuilt
from mailer.mime.prebuilt import Prebuilt

VERSION = 1

CLASSES: dict[str, type[EmailMessage]] = {
    "EmailMessage": EmailMessage,
    "EmailMultiAlternatives": EmailMultiAlternatives,
    "ReadyMade": Prebuilt,  # its former name, used in stored documents
}
FOR_PROVIDERS = (
    *("envelope_sender", "metadata", "send_at", "tags", "track_clicks", "track_opens", "template_id"),
    *("merge_data", "merge_global_data", "merge_headers", "merge_metadata", "esp_extra"),
)
"""Attributes that Anymail's backends read from any message."""

TEXTS = ("subject", "from_email", "reply_to", "extra_headers", "body", "alternatives")
"""Attributes that hold what people read."""

BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")

ACCEPTED_DEFECTS = {
    "addr-spec local part with no domain",  # a local mailbox of the server, such as `root`
    "local-part contains non-ASCII characters)",  # servers that announce SMTPUTF8 accept it (RFC 6531)
}
"""Defects of an address that Python reports but servers accept."""
LONGEST_MESSAGE_ID = 250
"""Characters that a row can store."""


def dump(message: EmailMessage) -> bytes:
    """Serialize the message.

    Raises ValueError (such as TooLarge) if it cannot be sent, and TypeError, which names the attribute, if it cannot be
    stored.
    """
    _check_addresses(message)
    _check_size(message)
    source = (
        encoding.with_idna_2008(message).message(policy=policy.SMTP).as_bytes()
    )  # raises for an invalid header or charset
    attributes = _attributes(message)
    if prebuilt.is_prebuilt(message):
        attributes |= _prebuilt_attributes(message, source)
    _check_message_id(message_id(attributes["extra_headers"]))
    stored = {name: _encode(value, name) for name, value in attributes.items()}
    return zlib.compress(json.dumps({"version": VERSION, **stored}).encode("ascii"))


def load(document: bytes) -> EmailMessage:
    """Load a message that `dump` stored. Attributes that it did not set follow the present settings.

    Raises UnknownKind for a document of a newer release.
    """
    stored: dict[str, Any] = json.loads(zlib.decompress(document))
    if (version := stored.pop("version")) > VERSION:
        raise UnknownKind(f"its body is a document of version {version}, and this release reads {VERSION}")
    message = CLASSES[stored.pop("class")]()
    for name, value in stored.items():
        setattr(message, name, _decode(value))
    message.attachments = [e if isinstance(e, Message) else EmailAttachment(*e) for e in message.attachments]
    if isinstance(message, EmailMultiAlternatives):
        message.alternatives = [EmailAlternative(*alternative) for alternative in message.alternatives]
    if isinstance(message, Prebuilt):
        message.track_changes()
    return message


def recipients(document: bytes) -> list[str]:
    """Return all recipients of a stored message, without loading its parts."""
    stored: dict[str, Any] = json.loads(zlib.decompress(document))
    return [str(entry) for name in ("to", "cc", "bcc") for entry in stored.get(name, ()) if entry]


def texts(document: bytes) -> list[Any]:
    """Return the texts of a stored message in no particular order, without its recipients and attached files."""
    stored: dict[str, Any] = json.loads(zlib.decompress(document))
    return [_decode(stored[name]) for name in TEXTS if name in stored]


def message_id(headers: Mapping[str, Any]) -> str:
    """Return the Message-ID in `extra_headers`, or an empty string."""
    return next((str(value) for name, value in headers.items() if name.lower() == "message-id"), "")


# --- What cannot be sent ---------------------------------------------------------------------------------------------


def _check_addresses(message: EmailMessage) -> None:
    recipients = message.recipients()
    if not recipients:
        raise ValueError("the message has no recipient")
    _check_address("from_email", str(message.from_email))
    for recipient in recipients:
        _check_address("a recipient", str(recipient))
    for entry in message.reply_to:
        _check_length("reply_to", str(entry))


def _check_length(what: str, text: str) -> None:
    if len(text) > LONGEST_ENTRY or text.count("(") > DEEPEST_COMMENT:
        raise ValueError(f"Invalid address ({what}): more than {LONGEST_ENTRY} characters, or too many brackets")


def _check_address(what: str, text: str) -> None:
    """Check an address as Django's SMTP backend does, but keep it out of the error text."""
    _check_length(what, text)
    parsed: Any = AddressHeader.value_parser(text)
    defects = {str(defect) for defect in parsed.all_defects} - ACCEPTED_DEFECTS
    address = parseaddr(text)[1]
    if defects or len(parsed.all_mailboxes) != 1 or not address:
        why = "; ".join(sorted(defects)) or "each entry has to be one mailbox"
        raise ValueError(f"Invalid address ({what}): {why}")
    try:
        for_envelope(text)
    except InvalidAddress as reason:
        raise ValueError(f"Invalid address ({what}): {reason}") from None


def _check_message_id(value: str) -> None:
    if len(value) > LONGEST_MESSAGE_ID or not value.isascii() or not value.isprintable():
        raise ValueError(f"the Message-ID must be at most {LONGEST_MESSAGE_ID} printable ASCII characters")


def _check_size(message: EmailMessage) -> None:
    limit = options().max_message_size
    if (size := sum(map(_length, _contents(message)))) > limit:
        raise TooLarge(
            f"the bodies and attachments have {size} bytes, more than the {limit} of POSTCOMMIT_MAX_MESSAGE_SIZE; "
            "send a link instead of the largest file"
        )


def _contents(message: EmailMessage) -> Iterator[Any]:
    yield message.body
    yield from (content for content, _ in getattr(message, "alternatives", ()))
    yield from (entry if isinstance(entry, Message) else entry[1] for entry in message.attachments)


def _length(content: Any) -> int:
    match content:
        case bytes() | bytearray() | memoryview():
            return memoryview(content).nbytes
        case EmailMessage():
            return sum(map(_length, _contents(content)))
        case Message():
            leaves = (part for part in content.walk() if not part.is_multipart())
            return sum(len(leaf.get_payload(decode=True) or b"") for leaf in leaves)
        case _:
            return len(str(content).encode("utf-8", "surrogatepass"))


# --- A message as names and values -----------------------------------------------------------------------------------


def _attributes(message: EmailMessage) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "class": "EmailMessage",
        "subject": str(message.subject),
        "body": message.body if isinstance(message.body, bytes) else str(message.body or ""),
        "from_email": str(message.from_email),
        **{field: [entry and str(entry) for entry in getattr(message, field)] for field in ("to", "cc", "bcc")},
        "reply_to": [str(entry) for entry in message.reply_to],
        "extra_headers": {str(name): _header(name, value) for name, value in message.extra_headers.items()},
        "attachments": [_attachment_values(entry) for entry in message.attachments],
        "encoding": message.encoding,
        "content_subtype": message.content_subtype,
    }
    if isinstance(message, EmailMultiAlternatives):
        attributes |= {"class": "EmailMultiAlternatives", "alternatives": [[*each] for each in message.alternatives]}
    given = {name: getattr(message, name) for name in FOR_PROVIDERS if hasattr(message, name)}
    # AnymailMessage sets those that have no value to Anymail's class UNSET.
    return attributes | {name: value for name, value in given.items() if getattr(value, "__name__", "") != "UNSET"}


def _header(name: str, value: Any) -> Any:
    """Convert a value as Django does: address fields also accept lists, other fields numbers and dates."""
    if isinstance(value, list | tuple) and name in ("To", "Cc", "Reply-To"):
        return ", ".join(map(str, value))
    return value if is_protected_type(value) else force_str(value)


def _attachment_values(entry: Any) -> Any:
    if isinstance(entry, Message):
        return entry
    filename, content, mimetype = entry
    is_message = mimetype.partition("/")[0] == "message" and isinstance(content, EmailMessage | Message)
    if not is_message and not isinstance(content, str | bytes | bytearray | memoryview):
        content = force_bytes(content)
    return [filename, content, mimetype]


def _prebuilt_attributes(message: EmailMessage, source: bytes) -> dict[str, Any]:
    """Return the MIME of a prebuilt message, and the recipients that its class reports."""
    recipients = [str(recipient) for recipient in message.recipients()]
    visible = [str(entry) for entry in (*message.to, *message.cc) if entry]
    headers = {name: value for name, value in message.extra_headers.items() if name.lower() != "message-id"}
    message_id = str(prebuilt.parse(source, Entity)["Message-ID"] or "")
    return {
        "class": "ReadyMade",  # see CLASSES
        "source": BARE_LINE_FEED.sub(b"\r\n", source),  # SMTP has only CRLF (RFC 5321, 2.3.8)
        "to": [str(entry) for entry in message.to if str(entry) in recipients],
        "cc": [str(entry) for entry in message.cc if str(entry) in recipients],
        "bcc": [recipient for recipient in recipients if recipient not in visible],
        "extra_headers": {name: _header(name, value) for name, value in headers.items()}
        | ({"Message-ID": message_id} if message_id else {}),
    }


# --- Values as JSON: a type that JSON does not have is an object with one entry, named after the type -----------------


def _encode(value: Any, attribute: str) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str() | Promise():
            return str(value)
        case list():
            return [_encode(entry, attribute) for entry in value]
        case tuple():
            return {"tuple": [_encode(entry, attribute) for entry in value]}
        case Mapping():
            return {"dict": [[_encode(key, attribute), _encode(value[key], attribute)] for key in value]}
    return _encode_object(value, attribute)


def _encode_object(value: Any, attribute: str) -> dict[str, str]:
    match value:
        case bytes() | bytearray() | memoryview():
            return {"bytes": b64encode(value).decode()}
        case EmailMessage():
            return _encode_object(value.message(policy=policy.SMTP), attribute)
        case Message():
            return {"mime": b64encode(value.as_bytes(policy=encoding.smtp_policy(eight_bit=True))).decode()}
        case datetime():
            return {"datetime": value.isoformat()}
        case date():
            return {"date": value.isoformat()}
        case Decimal():
            return {"Decimal": str(value)}
    raise TypeError(f"{attribute} of the message holds a {type(value).__name__}, which cannot be stored")


def _decode(stored: Any) -> Any:
    if isinstance(stored, list):
        return [_decode(entry) for entry in stored]
    if not isinstance(stored, dict):
        return stored
    [(kind, value)] = stored.items()
    match kind:
        case "bytes":
            return b64decode(value)
        case "mime":
            return prebuilt.parse(b64decode(value), Entity)
        case "tuple":
            return tuple(_decode(entry) for entry in value)
        case "dict":
            return {_decode(key): _decode(entry) for key, entry in value}
        case "datetime":
            return datetime.fromisoformat(value)
        case "date":
            return date.fromisoformat(value)
        case "Decimal":
            return Decimal(value)
    raise UnknownKind(f"its body holds a value of the type {kind!r}, which this release does not know")
