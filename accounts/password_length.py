"""The maximum length of a password. A longer one would only slow the hasher down."""

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

LONGEST_PASSWORD = 4096
"""Characters."""


class MaximumLengthValidator:
    """For AUTH_PASSWORD_VALIDATORS: the log-in form refuses a longer password."""

    def validate(self, password: str, user: Any = None) -> None:
        if len(password) > LONGEST_PASSWORD:
            raise ValidationError(self.get_help_text(), code="password_too_long")

    def get_help_text(self) -> str:
        return _("Your password can have at most %(longest)d characters.") % {"longest": LONGEST_PASSWORD}
