"""DKIM signatures (RFC 6376), with RSA and Ed25519 (RFC 8463): the keys of this installation, and what they sign."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import getaddresses
from functools import lru_cache
from pathlib import Path
from typing import Any

import dkim
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.signals import setting_changed
from dkim import asn1, crypto

from mailer.conf import options, sender_domain
from mailer.outcomes import Unsendable

RSA, ED25519 = b"rsa-sha256", b"ed25519-sha256"
SHORTEST_RSA = 1024
"""In bits; receivers need not verify less (RFC 8301, 3.2)."""

ALWAYS_SEALED = (b"from", b"to", b"cc", b"reply-to", b"subject", b"date", b"message-id")
"""Signed once more than they are there, so that nobody can add one (RFC 6376, 5.4.2 and 8.15)."""
SEALED_IF_PRESENT = (
    *(b"mime-version", b"content-type", b"content-transfer-encoding", b"auto-submitted", b"feedback-id"),
    *(b"list-id", b"list-unsubscribe", b"list-unsubscribe-post"),  # both of the last two: RFC 8058, 4
)
"""The same, unless there is none: a mailing list on the way may add its own."""

SELECTOR = DOMAIN = re.compile(
    r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII | re.IGNORECASE
)
PATH = re.compile(r"(?!.*PRIVATE KEY)[/.]\S+")
"""Somebody may have written the key itself, which must not be quoted."""
PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n(.*?)-----END \1-----", re.DOTALL)
PKCS8 = [
    (asn1.SEQUENCE, [(asn1.INTEGER,), (asn1.SEQUENCE, [(asn1.OBJECT_IDENTIFIER,)]), (asn1.OCTET_STRING,)]),
]
SEED_LENGTH = 32
"""Octets of an Ed25519 key (RFC 8032, 5.1.5)."""
OID_ED25519 = b"\x2b\x65\x70"  # 1.3.101.112 (RFC 8410, 3)


class UnusableKey(ValueError):
    """A file is not a key that can sign; the text says why, and nothing of the key."""


@dataclass(frozen=True, slots=True)
class Key:
    """A private key and the name under which the DNS has its public half."""

    selector: str
    algorithm: bytes
    """`rsa-sha256` or `ed25519-sha256`."""
    private: bytes = field(repr=False)
    """As dkimpy takes it: PEM, or the base64 of an Ed25519 seed."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs for one domain, with each of its keys. Threads may share it."""

    domain: str
    """In ASCII and lower case."""
    keys: tuple[Key, ...]

    def signs(self, mail: EmailMessage) -> bool:
        """Whether each author of the mail is of the domain, or of one below it: no other signature would be aligned
        (RFC 7489, 3.1.1)."""
        authors = [address for _, address in getaddresses([str(mail.extra_headers.get("From", mail.from_email))])]
        return bool(authors) and all(self._is_ours(address) for address in authors)

    def _is_ours(self, address: str) -> bool:
        domain = _ascii(address.rpartition("@")[2])
        return domain == self.domain or domain.endswith(f".{self.domain}")

    def sign(self, octets: bytes) -> bytes:
        """The message with one signature for each key on top. Raises Unsendable if it cannot be signed."""
        try:
            message = dkim.DKIM(octets)
            names = list(_names(message))
            signatures = [self._signature(message, key, names) for key in self.keys]
        except dkim.DKIMException as error:  # its text quotes the message
            raise Unsendable(f"the message cannot be signed: {type(error).__name__}") from None
        return b"".join(signatures) + octets

    def _signature(self, message: Any, key: Key, names: list[bytes]) -> bytes:
        signature: bytes = message.sign(
            key.selector.encode(),
            self.domain.encode(),
            key.private,
            signature_algorithm=key.algorithm,
            canonicalize=(dkim.Relaxed, dkim.Relaxed),
            include_headers=names,
        )
        return signature


def _names(message: Any) -> Iterator[bytes]:
    """The header fields to sign, each as often as it is there, and once more."""
    present = [name.lower() for name, _ in message.headers]
    for name in (*ALWAYS_SEALED, *SEALED_IF_PRESENT):
        if name in present or name in ALWAYS_SEALED:
            yield from [name] * (present.count(name) + 1)


@lru_cache(maxsize=1)
def signer() -> Signer | None:
    """The one of this installation, if POSTCOMMIT_DKIM_KEYS is set; its files are read once per process.

    Raises ImproperlyConfigured with a sentence that names variable, selector and path.
    """
    entries = options().dkim_keys
    if not entries:
        return None
    domain = _ascii(options().dkim_domain or sender_domain())
    if not DOMAIN.fullmatch(domain):
        raise ImproperlyConfigured(
            "POSTCOMMIT_DKIM_DOMAIN must be a domain as in example.com; unless it is set, that of DEFAULT_FROM_EMAIL counts."
        )
    keys = tuple(map(_load, entries))
    selectors = [key.selector.lower() for key in keys]
    if len(set(selectors)) < len(selectors):
        raise ImproperlyConfigured("POSTCOMMIT_DKIM_KEYS names a selector twice; each key needs one of its own.")
    return Signer(domain, keys)


@setting_changed.connect
def forget(*, setting: str, **_: Any) -> None:
    """Lets `override_settings(POSTCOMMIT=…)` take effect."""
    if setting in ("POSTCOMMIT", "DEFAULT_FROM_EMAIL"):
        signer.cache_clear()


def _ascii(domain: str) -> str:
    try:
        return domain.encode("idna").decode().lower()
    except UnicodeError:
        return domain.lower()


def _load(entry: str) -> Key:
    selector, _, path = (piece.strip() for piece in entry.partition(":"))
    if not PATH.fullmatch(path) or not SELECTOR.fullmatch(selector):
        raise ImproperlyConfigured(
            "POSTCOMMIT_DKIM_KEYS must be selector:path, as in s1:/run/secrets/s1.pem; commas between several."
        )
    try:
        return parse_key(selector, Path(path).read_bytes())
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnusableKey as error:
        reason = str(error)
    raise ImproperlyConfigured(f"POSTCOMMIT_DKIM_KEYS: the key of the selector {selector!r}, {path}, {reason}.")


def parse_key(selector: str, content: bytes) -> Key:
    """A private key from the content of its file: RSA in PKCS#1 or PKCS#8, Ed25519 in PKCS#8, each as PEM, or the bare base64
    of an Ed25519 seed, as dkimpy's `dknewkey` writes it. Raises UnusableKey."""
    pem = PEM.search(content)
    if pem is None:
        return _ed25519(selector, _decoded(content))
    kind, body = pem[1].decode(), pem[2]
    if kind == "ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in body:
        raise UnusableKey("is encrypted; a process that nobody types a password for needs it in plain")
    if kind not in ("PRIVATE KEY", "RSA PRIVATE KEY"):
        raise UnusableKey(f"is a {kind}, and no private RSA or Ed25519 key")
    der = _decoded(body)
    seed = _seed_in(der)
    return _rsa(selector, der) if seed is None else _ed25519(selector, seed)


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise UnusableKey("is neither PEM nor base64, or it is damaged") from None


def _seed_in(der: bytes) -> bytes | None:
    """The seed in a PKCS#8 file of an Ed25519 key (RFC 8410, 7); None for one of another kind."""
    try:
        [[_, [oid], inner]] = asn1.asn1_parse(PKCS8, der)
        if oid != OID_ED25519:
            return None
        return bytes(asn1.asn1_parse([(asn1.OCTET_STRING,)], inner)[0])
    except (asn1.ASN1FormatError, ValueError):
        return None


def _ed25519(selector: str, seed: bytes) -> Key:
    if len(seed) != SEED_LENGTH:
        raise UnusableKey("is no Ed25519 key, which has 32 octets")
    return Key(selector, ED25519, base64.b64encode(seed))


def _rsa(selector: str, der: bytes) -> Key:
    try:
        numbers = crypto.parse_private_key(der)
        bits = numbers["modulus"].bit_length()
        works = bits < SHORTEST_RSA or _verifies(numbers)
    except Exception:  # dkimpy's arithmetic on numbers that are no key; its text might quote one
        raise UnusableKey("is no private RSA or Ed25519 key, or it is damaged") from None
    if bits < SHORTEST_RSA:
        raise UnusableKey(
            f"has {bits} bits; receivers want {SHORTEST_RSA} at the least, and 2048 are better (RFC 8301)"
        )
    if not works:
        raise UnusableKey("is damaged: what it signs does not verify")
    pem = b"-----BEGIN RSA PRIVATE KEY-----\n%b\n-----END RSA PRIVATE KEY-----\n"
    return Key(selector, RSA, pem % base64.b64encode(der))


def _verifies(numbers: Any) -> bool:
    digest = hashlib.sha256()
    return bool(crypto.RSASSA_PKCS1_v1_5_verify(digest, crypto.RSASSA_PKCS1_v1_5_sign(digest, numbers), numbers))
