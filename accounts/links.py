"""The secret in a link: derived from a row and a key when the mail is built, and kept in no table."""

from django.conf import settings
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.urls import reverse
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from accounts.models import EmailChange, EmailVerification, User

VERIFY = "accounts.verification"
CONFIRM_CHANGE = "accounts.email_change.confirm"
STOP_CHANGE = "accounts.email_change.stop"
"""Salts. Each purpose has its own: a code for one of them must be worth nothing for another."""

CODE_LENGTH = 40
"""Hexadecimal digits, 160 bits."""


class ResetTokens(PasswordResetTokenGenerator):
    """Django's, with a salt of its own. A token ends with a log-in, a new password or a new address, and after
    PASSWORD_RESET_TIMEOUT."""

    key_salt = "accounts.password_reset"


reset_tokens = ResetTokens()


def to_verify(verification: EmailVerification) -> str:
    """The whole link, as it stands in the mail."""
    return _absolute("verify", verification.pk, code(VERIFY, row_of_verification(verification)))


def to_reset_password(user: User) -> str:
    """As above; the token's hour begins now."""
    return _absolute(
        "password_reset_confirm", urlsafe_base64_encode(force_bytes(user.pk)), reset_tokens.make_token(user)
    )


def to_confirm_change(change: EmailChange) -> str:
    """As above, for the new address."""
    return _absolute("email_change_confirm", change.pk, code(CONFIRM_CHANGE, row_of_change(change)))


def to_stop_change(change: EmailChange) -> str:
    """As above, for the old address."""
    return _absolute("email_change_stop", change.pk, code(STOP_CHANGE, row_of_change(change)))


def row_of_verification(row: EmailVerification) -> str:
    """What the code of its link stands for."""
    return f"{row.pk}:{row.user_id}:{row.address}:{row.secret}"


def row_of_change(row: EmailChange) -> str:
    """What the codes of its links stand for."""
    return f"{row.pk}:{row.user_id}:{row.old_address}:{row.new_address}:{row.secret}"


def code(salt: str, row: str) -> str:
    """An HMAC (RFC 2104) over the row, under SECRET_KEY."""
    return _code(salt, row, settings.SECRET_KEY)


def is_right(given: str, salt: str, row: str) -> bool:
    """Whether this is the row's code, under today's key or one of SECRET_KEY_FALLBACKS."""
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any(constant_time_compare(given, _code(salt, row, key)) for key in keys)


def _code(salt: str, row: str, key: str) -> str:
    return salted_hmac(salt, row, secret=key, algorithm="sha256").hexdigest()[:CODE_LENGTH]


def _absolute(route: str, *arguments: object) -> str:
    return settings.SITE_URL + reverse(route, args=arguments)
