"""The canonical form of e-mail addresses: two spellings of one address become equal."""

import re
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.core.validators import validate_email as validate_with_django
from django.utils.translation import gettext_lazy as _
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

ONE_AT = _("Enter one address with one @ sign, for example ann@example.com.")
TOO_LONG = _("This address is too long. It can have 64 characters before the @ sign and 254 in total.")
DOTS = _("A dot in an address must be between two other characters.")
LOCAL_PART = _(
    "Before the @ sign, use only letters from a to z, digits, dots and common symbols. Spaces are not allowed."
)
RESERVED = _("This domain is reserved and cannot receive e-mail.")
DOMAIN = _("After the @ sign, enter a domain that can receive e-mail, for example example.com.")

LONGEST = 254
"""Characters of an address (RFC 5321, 4.5.3.1.3)."""
PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")
"""An unquoted local part (RFC 5322, 3.2.3: atext and the dot)."""


def canonical(address: str) -> str:
    """Return the address in lower case, its domain in IDNA 2008 form, as SMTP transmits it.

    Raise ValidationError, with the reason, if no mail can be sent to the address.
    """
    if len(address) > LONGEST:  # before the library, which takes seconds to normalize thousands of combining marks
        raise ValidationError(_complaint(address), code="invalid")
    try:
        checked = validate_email(address, allow_smtputf8=False, strict=True, check_deliverability=False)
        in_ascii = (checked.ascii_email or "").lower()
        validate_with_django(in_ascii)  # as the model's field does
    except (EmailNotValidError, ValidationError):
        raise ValidationError(_complaint(address), code="invalid") from None
    return in_ascii


SAME_DOMAIN = {"googlemail.com": "gmail.com", "pm.me": "proton.me", "protonmail.com": "proton.me"}
IGNORED = {"gmail.com": ".", "proton.me": ".-_"}
"""Characters before the @ sign that a provider does not read.

https://support.google.com/mail/answer/7436150, https://proton.me/support/addresses-and-aliases
"""


def mailbox(address: str) -> str:
    """Return one name for all spellings of a canonical address that reach the same mailbox, as far as that is known.

    For limits only: two spellings are two accounts. Nearly every server delivers `ann+shop@…` to `ann@…` (RFC 5233).
    """
    local, _at, domain = address.rpartition("@")
    domain = SAME_DOMAIN.get(domain, domain)
    plain = local.partition("+")[0] or local
    return f"{plain.translate(dict.fromkeys(map(ord, IGNORED.get(domain, ''))))}@{domain}"


def _complaint(address: str) -> "_StrPromise":
    """Return the reason in a translated text. The library's texts are in English only."""
    local, _at, domain = address.rpartition("@")
    if address.count("@") != 1 or not local or not domain:
        return ONE_AT
    if len(local) > 64 or len(address) > LONGEST:
        return TOO_LONG
    if ".." in address or any(part.startswith(".") or part.endswith(".") for part in (local, domain)):
        return DOTS
    if not PLAIN.fullmatch(local):
        return LOCAL_PART
    if domain.lower().rpartition(".")[2] in SPECIAL_USE_DOMAIN_NAMES:
        return RESERVED
    return DOMAIN
