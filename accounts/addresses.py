"""What an e-mail address looks like here: one canonical form, in which two spellings of one mailbox are equal."""

import re
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.core.validators import validate_email as validate_as_django_does
from django.utils.translation import gettext_lazy as _
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

ONE_AT = _("Write one address, with one @ sign inside it, as in ann@example.com.")
TOO_LONG = _("This address is too long: 64 characters fit before the @ sign, and 254 altogether.")
DOTS = _("In an address, a dot stands between two other characters.")
LOCAL_PART = _("Before the @ sign there may be letters from a to z, digits, dots and a few marks, but no space.")
RESERVED = _("No mail can be sent to this domain: its name is reserved.")
DOMAIN = _("After the @ sign there must be the name of a domain that gets mail, as in example.com.")

PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")
"""What a local part is made of unless it is quoted (RFC 5322, 3.2.3: atext, and the dot)."""


def canonical(address: str) -> str:
    """The address in lower case with its domain in IDNA 2008 form, as SMTP carries it.

    Raises ValidationError, saying what is wrong, for an address that no mail could be sent to.
    """
    try:
        checked = validate_email(address, allow_smtputf8=False, strict=True, check_deliverability=False)
        in_ascii = (checked.ascii_email or "").lower()
        validate_as_django_does(in_ascii)  # what the model's field asks for as well
    except (EmailNotValidError, ValidationError):
        raise ValidationError(_complaint(address), code="invalid") from None
    return in_ascii


def _complaint(address: str) -> "_StrPromise":
    """In words of ours, since those of the library are English alone."""
    local, _at, domain = address.rpartition("@")
    if address.count("@") != 1 or not local or not domain:
        return ONE_AT
    if len(local) > 64 or len(address) > 254:
        return TOO_LONG
    if ".." in address or any(part.startswith(".") or part.endswith(".") for part in (local, domain)):
        return DOTS
    if not PLAIN.fullmatch(local):
        return LOCAL_PART
    if domain.lower().rpartition(".")[2] in SPECIAL_USE_DOMAIN_NAMES:
        return RESERVED
    return DOMAIN
