"""Sign mail with DKIM (RFC 6376), with RSA and Ed25519 keys (RFC 8463)."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from email.utils import getaddresses
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dkim
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from dkim import asn1, crypto
from nacl.signing import SigningKey

from mailer.addresses import InvalidAddress, domain_in_ascii
from mailer.conf import options, sender_domain
from mailer.outcomes import Unsendable

SHORTEST_RSA = 1024
"""In bits. Receivers need not verify shorter keys (RFC 8301, 3.2)."""

ALWAYS_OVERSIGNED = (b"from", b"to", b"cc", b"reply-to", b"subject", b"date", b"message-id")
"""Signed once more than they occur, so that no other one can be added (RFC 6376, 5.4.2 and 8.15)."""
OVERSIGNED_IF_PRESENT = (
    *(b"mime-version", b"content-type", b"content-transfer-encoding", b"auto-submitted", b"feedback-id"),
    *(b"list-id", b"list-unsubscribe", b"list-unsubscribe-post"),  # both of the last two: RFC 8058, 4
)
"""Oversigned only if present: otherwise a mailing list may add its own."""

SELECTOR = DOMAIN = re.compile(
    r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII | re.IGNORECASE
)
PATH = re.compile(r"(?!.*PRIVATE KEY)[/.]\S+")
"""The setting may hold the key itself by mistake; an error message must not quote it."""
PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----\r?\n(.*?)-----END ", re.DOTALL)
ED25519_PKCS8 = re.compile(rb"\x30.\x02\x01[\x00\x01]\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20(.{32})", re.DOTALL)
"""The DER encoding of an Ed25519 key with its seed (RFC 8410, 7). Version 1 adds the public key at the end."""

RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")
"""The name of the algorithm in DER (RFC 8017, A.1)."""

RSA_NUMBERS = (
    *("prime1", "prime2", "privateExponent", "exponent1", "exponent2", "coefficient"),
    *("modulus", "publicExponent"),
)
"""A private key in dkimpy's words (RFC 8017, A.1.2)."""

NO_KEY = "is not an unencrypted private RSA or Ed25519 key, or it is damaged"


class UnusableKey(ValueError):
    """The file is not a key that can sign. The text says why, without a part of the key."""


@dataclass(frozen=True, slots=True)
class Key:
    """A private key, and the selector under which DNS has its public key."""

    selector: str
    algorithm: bytes
    """`rsa-sha256` or `ed25519-sha256`."""
    private: bytes = field(repr=False)
    """As dkimpy takes it: PEM, or the base64 of an Ed25519 seed."""

    @property
    def public(self) -> str:
        """The public half as its DNS record has it: base64 of a DER structure for RSA, of the bare key for Ed25519."""
        if self.algorithm == b"ed25519-sha256":
            return base64.b64encode(bytes(SigningKey(base64.b64decode(self.private)).verify_key)).decode()
        numbers = crypto.parse_pem_private_key(self.private)
        integers = (numbers[name] for name in ("modulus", "publicExponent"))  # with a zero bit before, so not negative
        encoded = (_der(asn1.INTEGER, number.to_bytes(number.bit_length() // 8 + 1)) for number in integers)
        bits = _der(asn1.BIT_STRING, b"\0" + _der(asn1.SEQUENCE, b"".join(encoded)))
        return base64.b64encode(_der(asn1.SEQUENCE, RSA_ENCRYPTION + bits)).decode()


@dataclass(frozen=True, slots=True)
class Signer:
    """Sign for one domain with each of its keys. Threads may share it."""

    domain: str
    """In ASCII and lower case."""
    keys: tuple[Key, ...]

    def signs(self, mail: EmailMessage) -> bool:
        """Return whether every author is of the domain or a subdomain, so that the signature is aligned (RFC 7489, 3.1.1)."""
        authors = getaddresses([str(mail.extra_headers.get("From", mail.from_email))])
        domains = [_ascii(address.rpartition("@")[2]) for _, address in authors]
        return bool(domains) and all(each == self.domain or each.endswith(f".{self.domain}") for each in domains)

    def sign(self, octets: bytes) -> bytes:
        """Return the message with one signature for each key on top. Raises Unsendable if it cannot be signed."""
        try:
            message = _Message(octets)
            present = [name.lower() for name, _ in message.headers]
            names = [  # each as often as it is present, and once more
                name
                for name in (*ALWAYS_OVERSIGNED, *OVERSIGNED_IF_PRESENT)
                if name in present or name in ALWAYS_OVERSIGNED
                for _ in range(present.count(name) + 1)
            ]
            signatures: list[bytes] = [
                message.sign(
                    key.selector.encode(),
                    self.domain.encode(),
                    key.private,
                    signature_algorithm=key.algorithm,
                    canonicalize=(dkim.Relaxed, dkim.Relaxed),
                    include_headers=names,
                )
                for key in self.keys
            ]
        except dkim.DKIMException as error:  # its text quotes the message
            raise Unsendable(f"the message cannot be signed: {type(error).__name__}") from None
        return b"".join(signatures) + octets


class _Message(dkim.DKIM):  # type: ignore[misc]  # dkimpy has no types
    """Sign with OpenSSL: dkimpy computes RSA in Python, which takes longer than all else. The octets are the same."""

    signature_algorithm: bytes

    def gen_header(self, fields: Any, names: Any, policy: Any, header: Any, key: Any, standardize: bool = False) -> Any:
        if (
            self.signature_algorithm == b"rsa-sha256"
        ):  # `fields` has its name already; with the other one dkimpy asks the key
            self.signature_algorithm, key = b"ed25519-sha256", _OpenSSL(key)
        return super().gen_header(fields, names, policy, header, key, standardize)


class _OpenSSL:
    """An RSA key with the method that dkimpy calls of PyNaCl's key."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self._key = _rsa_key(*(numbers[name] for name in RSA_NUMBERS))

    def sign(self, digest: bytes) -> SimpleNamespace:
        return SimpleNamespace(signature=self._key.sign(digest, PKCS1v15(), Prehashed(SHA256())))


@lru_cache(maxsize=8)  # to check the numbers takes longer than to sign
def _rsa_key(p: int, q: int, d: int, dmp1: int, dmq1: int, iqmp: int, n: int, e: int) -> RSAPrivateKey:
    """Return the key for OpenSSL. Raises ValueError if its numbers do not belong together."""
    return RSAPrivateNumbers(p, q, d, dmp1, dmq1, iqmp, RSAPublicNumbers(e, n)).private_key()


def signer() -> Signer:
    """Return the signer of this installation. A process reads the files once.

    Raises ImproperlyConfigured with a sentence that names setting, selector and path.
    """
    return _signer(_ascii(options().dkim_domain or sender_domain()), options().dkim_keys)


@lru_cache(maxsize=1)
def _signer(domain: str, entries: tuple[str, ...]) -> Signer:
    if not DOMAIN.fullmatch(domain):
        raise ImproperlyConfigured(
            "POSTCOMMIT_DKIM_DOMAIN must be a domain as in example.com; its default is the domain of DEFAULT_FROM_EMAIL."
        )
    keys = tuple(map(_load, entries))
    if len({key.selector.lower() for key in keys}) < len(keys):
        raise ImproperlyConfigured("POSTCOMMIT_DKIM_KEYS names a selector twice; each key needs its own.")
    return Signer(domain, keys)


def _ascii(domain: str) -> str:
    try:
        return domain_in_ascii(domain)
    except InvalidAddress:
        return domain.lower()


def _load(entry: str) -> Key:
    selector, _, path = (piece.strip() for piece in entry.partition(":"))
    if not PATH.fullmatch(path) or not SELECTOR.fullmatch(selector):
        raise ImproperlyConfigured(
            "POSTCOMMIT_DKIM_KEYS must be selector:path, as in s1:/run/secrets/s1.pem; commas between several."
        )
    try:
        return parse_key(selector, Path(path).read_bytes())
    except (OSError, UnusableKey) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
    raise ImproperlyConfigured(f"POSTCOMMIT_DKIM_KEYS: the key of the selector {selector!r}, {path}, {reason}.")


def parse_key(selector: str, content: bytes) -> Key:
    """Parse the content of a key file. Raises UnusableKey.

    It is RSA in PKCS#1 or PKCS#8 or Ed25519 in PKCS#8, each as PEM, or the bare base64 of an Ed25519 seed, as dkimpy's
    `dknewkey` writes it.
    """
    pem = PEM.search(content)
    try:
        der = base64.b64decode(b"".join((pem[1] if pem else content).split()), validate=True)
    except binascii.Error:
        raise UnusableKey(NO_KEY) from None
    pkcs8 = ED25519_PKCS8.match(der)
    seed = pkcs8[1] if pkcs8 else der
    if len(seed) == 32:
        return Key(selector, b"ed25519-sha256", base64.b64encode(seed))
    return _rsa(selector, der)


def _der(tag: int, content: bytes) -> bytes:
    """Encode a value in DER (X.690, 8.1.3). dkimpy's own function fails for more than 127 bytes."""
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes([tag]) + (length if len(content) < 128 else bytes([0x80 | len(length)]) + length) + content


def _rsa(selector: str, der: bytes) -> Key:
    try:
        numbers = crypto.parse_private_key(der)
        bits = numbers["modulus"].bit_length()
        digest = hashlib.sha256()
        works = bits < SHORTEST_RSA or crypto.RSASSA_PKCS1_v1_5_verify(
            digest, _OpenSSL(numbers).sign(digest.digest()).signature, numbers
        )
    except Exception:  # dkimpy's arithmetic may raise anything, and its text may quote the key
        works = False
    if not works:
        raise UnusableKey(NO_KEY)
    if bits < SHORTEST_RSA:
        raise UnusableKey(f"has {bits} bits; receivers want at least {SHORTEST_RSA}, and 2048 are better (RFC 8301)")
    pem = b"-----BEGIN RSA PRIVATE KEY-----\n%b\n-----END RSA PRIVATE KEY-----\n"
    return Key(selector, b"rsa-sha256", pem % base64.b64encode(der))
