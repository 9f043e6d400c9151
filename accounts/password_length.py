"""A password that is too long would only keep the hasher busy."""

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

LONGEST_PASSWORD = 4096
"""Characters."""


class MaximumLengthValidator:
    """For AUTH_PASSWORD_VALIDATORS: whoever chooses a longer one could never log in with it."""

    def validate(self, password: str, user: Any = None) -> None:
        """Raises ValidationError."""
        if len(password) > LONGEST_PASSWORD:
            raise ValidationError(self.get_help_text(), code="password_too_long")

    def get_help_text(self) -> str:
        return _("Your password can have %(longest)d characters at the most.") % {"longest": LONGEST_PASSWORD}
