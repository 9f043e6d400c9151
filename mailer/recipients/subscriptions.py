"""Streams that a reader can leave: who left which, and the link in each of their messages, which holds the address so that
nobody else can read it and works for as long as the keys of the site do."""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b

from django.conf import settings
from django.db.models import Exists, Model, OuterRef, QuerySet
from django.db.models.functions import Lower
from django.urls import reverse
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from mailer.email import Stream, kinds
from mailer.models import Suppression

PURPOSE = b"mailer.streams"
"""Keeps this key apart from every other use of SECRET_KEY (the personalisation of BLAKE2, RFC 7693, 2.8)."""

TOKEN = re.compile(r"[A-Za-z0-9_-]+")
"""What a token is made of; whatever a mail program glued to its end begins with something else."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A reader's address, and a stream that it may get."""

    address: str
    stream: Stream


class BrokenLink(ValueError):
    """The link was not made here, or is cut short, or its stream is no more."""


def streams() -> list[Stream]:
    """All streams that a kind of e-mail belongs to, by name."""
    by_name = {kind.stream.name: kind.stream for kind in reversed(kinds()) if kind.stream}
    return [by_name[name] for name in sorted(by_name)]


def find(name: str) -> Stream | None:
    """The stream of this name, if a kind of e-mail belongs to it."""
    return next((stream for stream in streams() if stream.name == name), None)


def unsubscribe(membership: Membership) -> None:
    """The reader wants no more mail of this stream. A message that waits for her ends as suppressed when it is due."""
    name = membership.stream.name
    row = Suppression(address=membership.address.lower(), stream=name, reason=f"its reader left the stream {name!r}")
    # Not get_or_create(), which fails when the row that stands in its way is deleted before it can be read.
    Suppression.objects.bulk_create([row], ignore_conflicts=True)


def resubscribe(membership: Membership) -> None:
    """The reader wants it again after all."""
    _row_of(membership).delete()


def is_unsubscribed(membership: Membership) -> bool:
    """Whether the reader left the stream."""
    return _row_of(membership).exists()


def unsubscribed_streams(address: str) -> set[str]:
    """The names of the streams that the reader of this address left."""
    rows = Suppression.objects.filter(address=address.lower()).exclude(stream="")
    return set(rows.values_list("stream", flat=True))


def copy_unsubscribes(old: str, new: str) -> None:
    """The reader of `old` has the address `new` from now on: what she left, she has left there too."""
    for stream in streams():
        if is_unsubscribed(Membership(old, stream)):
            unsubscribe(Membership(new, stream))


def subscribed[M: Model](rows: "QuerySet[M]", stream: Stream, *, address: str = "email") -> "QuerySet[M]":
    """Those of the rows, whose field `address` is one, that get mail of this stream; one query, however many they are."""
    against = Suppression.objects.filter(address=Lower(OuterRef(address)), stream__in=("", stream.name))
    return rows.filter(~Exists(against))


def unsubscribe_url(address: str, stream: Stream) -> str:
    """The page on which the reader of this address leaves the stream, and to which her mail client posts (RFC 8058)."""
    return settings.SITE_URL + reverse("unsubscribe", args=[token(address, stream)])


def token(address: str, stream: Stream) -> str:
    """The two of them, encrypted."""
    box = _boxes()[0].encrypt(json.dumps([address, stream.name]).encode())
    return urlsafe_b64encode(box).rstrip(b"=").decode()


def read(token: str) -> Membership:
    """Whose link it is. What a mail program took for a part of it, such as `>`, is passed over. Raises BrokenLink."""
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


def _row_of(membership: Membership) -> "QuerySet[Suppression]":
    return Suppression.objects.filter(address=membership.address.lower(), stream=membership.stream.name)


def _boxes() -> list[SecretBox]:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [SecretBox(blake2b(key.encode(), digest_size=SecretBox.KEY_SIZE, person=PURPOSE).digest()) for key in keys]
