"""Streams that recipients can unsubscribe from, and the link for it, which holds the encrypted address.

A link works as long as its key is in SECRET_KEY or SECRET_KEY_FALLBACKS.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b

from django.conf import settings
from django.db.models import QuerySet
from django.urls import reverse
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from mailer.email import Stream, kinds
from mailer.models import ALL_STREAMS, Cause, Suppression
from mailer.recipients.suppression import rows_of, suppress

PURPOSE = b"mailer.streams"
"""Separates this key from other keys that are derived from SECRET_KEY (BLAKE2 personalisation, RFC 7693, 2.8)."""

TOKEN = re.compile(r"[A-Za-z0-9_-]+")
"""The characters of a token. Text that a mail client appends to a link by mistake begins with another one."""


@dataclass(frozen=True, slots=True)
class Membership:
    """An address, and a stream that it may get."""

    address: str
    stream: Stream


class BrokenLink(ValueError):
    """The link is forged, is cut off, or names a stream that does not exist any more."""


def find(name: str) -> Stream | None:
    """Return the stream of this name, or None if no kind of e-mail uses it."""
    return next((kind.stream for kind in kinds() if kind.stream and kind.stream.name == name), None)


def streams() -> list[str]:
    """Return the names of the streams of this release."""
    return sorted({kind.stream.name for kind in kinds() if kind.stream})


def kinds_of(*streams: str) -> list[str]:
    """Return the names, present and former, of the kinds of e-mail that belong to these streams."""
    return [name for kind in kinds() if kind.stream and kind.stream.name in streams for name in kind.names()]


def unsubscribe(membership: Membership) -> None:
    """Stop mail of this stream to the address. A message that already waits becomes suppressed when it is due."""
    stream = membership.stream.name
    suppress(
        membership.address,
        f"unsubscribed from the stream {stream!r}",
        stream=stream,
        cause=Cause.UNSUBSCRIBE,
        source="the link in a mail",
    )


def resubscribe(membership: Membership) -> None:
    """Allow mail of this stream to the address again. One that wanted no stream at all wants this one, and the others too."""
    _rows_of(membership).delete()


def is_unsubscribed(membership: Membership) -> bool:
    """Return whether the recipient unsubscribed from the stream."""
    return _rows_of(membership).exists()


def copy_unsubscribes(old: str, new: str) -> None:
    """Unsubscribe the address `new` from all streams that `old` unsubscribed from."""
    for row in rows_of(old).exclude(stream=""):
        suppress(new, row.reason, stream=row.stream, cause=Cause(row.cause), source=row.source)


def unsubscribe_url(address: str, stream: Stream) -> str:
    """Return the URL of the unsubscribe page for this address, which mail clients can post to (RFC 8058)."""
    return settings.SITE_URL + reverse("unsubscribe", args=[token(address, stream)])


def token(address: str, stream: Stream) -> str:
    """Encrypt the address and the stream's name into the token of a link."""
    box = _boxes()[0].encrypt(json.dumps([address, stream.name]).encode())
    return urlsafe_b64encode(box).rstrip(b"=").decode()


def read(token: str) -> Membership:
    """Decrypt a token, ignoring characters after it, such as a `>` that a mail program added. Raises BrokenLink."""
    found = TOKEN.match(token)
    text = found[0] if found else ""
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise BrokenLink from None
    for box in _boxes():
        try:
            address, name = json.loads(box.decrypt(raw))
        except (CryptoError, ValueError):
            continue
        if stream := find(name):
            return Membership(address, stream)
    raise BrokenLink


def _rows_of(membership: Membership) -> "QuerySet[Suppression]":
    return rows_of(membership.address).filter(stream__in=[membership.stream.name, ALL_STREAMS])


def _boxes() -> list[SecretBox]:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [SecretBox(blake2b(key.encode(), digest_size=SecretBox.KEY_SIZE, person=PURPOSE).digest()) for key in keys]
