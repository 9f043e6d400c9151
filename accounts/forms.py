"""What people type: each form cleans it to what the use cases take."""

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm, SetPasswordMixin, UsernameField
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from accounts.addresses import canonical
from accounts.models import User


class AddressField(forms.CharField):
    """An e-mail address; its value is canonical."""

    widget = forms.EmailInput(attrs={"autocomplete": "email", "inputmode": "email", "autocapitalize": "none"})

    def __init__(self, **options: Any) -> None:
        super().__init__(label=_("E-mail address"), max_length=254, **options)

    def clean(self, value: Any) -> str:
        return canonical(super().clean(value))


class SignUpForm(SetPasswordMixin, forms.Form):
    """An address and a password, twice. Says nothing about whether the address is known."""

    email = AddressField()
    password1, password2 = SetPasswordMixin.create_password_fields(
        label1=_("Password"), label2=_("Password, once more")
    )

    def clean(self) -> dict[str, Any]:
        self.validate_passwords()
        user = User(email=self.cleaned_data.get("email", ""))
        self.validate_password_for_user(user)
        return self.cleaned_data


class ResendForm(forms.Form):
    """The address that waits for its link."""

    email = AddressField()


class LogInForm(AuthenticationForm):
    """Address and password; an account with an unverified address is told so, once the password was right."""

    UNVERIFIED = "unverified"

    username = UsernameField(
        label=_("E-mail address"),
        widget=forms.EmailInput(attrs={"autocomplete": "username", "autocapitalize": "none", "autofocus": True}),
    )

    def clean_username(self) -> str:
        typed: str = self.cleaned_data["username"]
        try:
            return canonical(typed)
        except ValidationError:
            return typed  # it matches no account; a reason would only help those who guess

    def confirm_login_allowed(self, user: Any) -> None:
        super().confirm_login_allowed(user)
        if not user.is_verified:
            raise ValidationError(_("Please confirm your e-mail address first."), code=self.UNVERIFIED)
