"""Variable envelope return paths: each mail's bounces come back to an address that names its message.

The token is signed, holds no address, and survives a change of case. It works as long as its key is in SECRET_KEY or
SECRET_KEY_FALLBACKS. (D. J. Bernstein: Variable Envelope Return Paths, 1997.)
"""

import re
from base64 import b32encode
from hashlib import blake2b

from django.conf import settings
from django.utils.crypto import constant_time_compare

from mailer.conf import options

PURPOSE = b"mailer.verp"
"""Separates this key from other keys that are derived from SECRET_KEY (BLAKE2 personalisation, RFC 7693, 2.8)."""
SIGNATURE = 10
"""Octets: nobody guesses 80 bits by sending bounces."""
TOKEN = re.compile(r"(?P<number>[1-9][0-9]{0,18})-(?P<signature>[a-z2-7]{16})", re.IGNORECASE)
IN_ADDRESS = re.compile(rf"\+({TOKEN.pattern})@", re.IGNORECASE)


def envelope_sender(message: int) -> str:
    """Return the address for the bounces of the message with this primary key; empty if POSTCOMMIT_BOUNCE_ADDRESS is."""
    local, _, domain = options().bounce_address.rpartition("@")
    return f"{local}+{token(message)}@{domain}" if local else ""


def message_of(address: str) -> int | None:
    """Return the primary key of the message whose bounces come to this address. None if it is none of ours, or forged."""
    found = IN_ADDRESS.search(address)
    return read(found[1]) if found else None


def token(message: int) -> str:
    """Return the signed number of a message."""
    return f"{message}-{_signature(str(message), settings.SECRET_KEY)}"


def read(text: str) -> int | None:
    """Return the number in a token, or None if it is forged."""
    if not (found := TOKEN.fullmatch(text)):
        return None
    number, signature = found["number"], found["signature"].lower()
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return int(number) if any(constant_time_compare(signature, _signature(number, key)) for key in keys) else None


def _signature(number: str, key: str) -> str:
    secret = blake2b(key.encode(), person=PURPOSE).digest()
    digest = blake2b(number.encode(), key=secret, digest_size=SIGNATURE, person=PURPOSE).digest()
    return b32encode(digest).decode().lower()
