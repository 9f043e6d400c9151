"""Links in e-mails. The secret in a link is derived from a row and SECRET_KEY when the mail is built, and is not stored."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.urls import reverse
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from accounts.models import EmailChange, EmailVerification, MailedLink, User

VERIFY = "accounts.verification"
CONFIRM_CHANGE = "accounts.email_change.confirm"
STOP_CHANGE = "accounts.email_change.stop"
DIGITS = "accounts.verification.digits"
"""Salts, one for each purpose, so that a code made for one purpose is invalid for another."""

CODE_LENGTH = 40
"""Hexadecimal digits, 160 bits."""


class LinkState(StrEnum):
    """The state of a link that was followed."""

    OPEN = "open"
    DONE = "done"
    """This request did what the link is for."""
    USED = "used"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    STOPPED = "stopped"
    REVERSIBLE = "reversible"
    """The change of address is confirmed and can be undone."""
    TAKEN = "taken"
    """Another account has the address."""
    NOT_THE_OWNER = "wrong_password"
    """The link is open, but the account's password was not given."""
    UNKNOWN = "unknown"
    """No such link exists. A wrong id and a wrong code look the same to the client."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link that was followed, and what it is about. Only the state is set if the link is unknown."""

    state: LinkState
    user_id: int | None = None
    address: str = ""
    """The account's address when the link was made."""
    new_address: str = ""
    begun_by: UUID | None = None
    """The sign-up that alone is behind the link."""


class ResetTokens(PasswordResetTokenGenerator):
    """Django's generator with another salt. A log-in, a new password or a new address invalidates the token, and so does
    PASSWORD_RESET_TIMEOUT."""

    key_salt = "accounts.password_reset"


reset_tokens = ResetTokens()


def to_verify(verification: EmailVerification) -> str:
    """Return the absolute URL that verifies an address."""
    return _absolute("verify", verification.pk, code(VERIFY, verification))


def to_reset_password(user: User) -> str:
    """Return the absolute URL that resets a password. The token's lifetime begins now."""
    return _absolute(
        "password_reset_confirm", urlsafe_base64_encode(force_bytes(user.pk)), reset_tokens.make_token(user)
    )


def to_confirm_change(change: EmailChange) -> str:
    """Return the absolute URL that confirms a change, for the new address."""
    return _absolute("email_change_confirm", change.pk, code(CONFIRM_CHANGE, change))


def to_stop_change(change: EmailChange) -> str:
    """Return the absolute URL that stops or undoes a change, for the old address."""
    return _absolute("email_change_stop", change.pk, code(STOP_CHANGE, change))


def code(salt: str, row: MailedLink, key: str | None = None) -> str:
    """Return the code of a row: an HMAC (RFC 2104) under the key, by default SECRET_KEY."""
    return salted_hmac(salt, row.signing_input(), secret=key, algorithm="sha256").hexdigest()[:CODE_LENGTH]


def find[Row: MailedLink](model: type[Row], pk: UUID, typed: str, salt: str) -> Row | None:
    """Find a row and its user. Return None if the code is wrong under SECRET_KEY and under SECRET_KEY_FALLBACKS."""
    row = model._default_manager.select_related("user").filter(pk=pk).first()
    return row if row and any(constant_time_compare(typed, code(salt, row, key)) for key in _keys()) else None


def digits(verification: EmailVerification, key: str | None = None) -> str:
    """Return the code beside the link, for the browser that signed up: six digits, derived as the link's code is."""
    derived = salted_hmac(DIGITS, verification.signing_input(), secret=key, algorithm="sha256").digest()
    return f"{int.from_bytes(derived) % 1_000_000:06}"


def are_digits_of(verification: EmailVerification, typed: str) -> bool:
    """Whether these are its digits, under SECRET_KEY or under SECRET_KEY_FALLBACKS."""
    return any(constant_time_compare(typed, digits(verification, key)) for key in _keys())


def _keys() -> list[str]:
    return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]


def _absolute(route: str, *arguments: object) -> str:
    return settings.SITE_URL + reverse(route, args=arguments)
