"""What an e-mail address looks like here: one canonical form, in which two spellings of one mailbox are equal."""

from django.core.exceptions import ValidationError
from email_validator import EmailNotValidError, validate_email


def canonical(address: str) -> str:
    """The address in lower case with its domain in IDNA 2008 form, as SMTP carries it.

    Raises ValidationError, saying what is wrong, for an address that no mail could be sent to.
    """
    try:
        checked = validate_email(address, allow_smtputf8=False, strict=True, check_deliverability=False)
    except EmailNotValidError as error:
        raise ValidationError(str(error), code="invalid") from None
    if checked.ascii_email is None:  # allow_smtputf8=False refuses those already; the library's types do not say so
        raise ValidationError("This address cannot be written in ASCII.", code="invalid")
    return checked.ascii_email.lower()
