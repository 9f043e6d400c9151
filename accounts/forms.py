"""Forms. Their cleaned data is what the use cases take."""

from functools import cache
from typing import Any, ClassVar
from zoneinfo import available_timezones

from django import forms
from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm, SetPasswordMixin, UsernameField
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator
from django.forms.utils import flatatt
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy as _

from accounts import login_alerts, moving_window, throttling
from accounts.addresses import canonical
from accounts.models import User
from accounts.network import UNKNOWN
from accounts.password_length import LONGEST_PASSWORD

REGIONS = ("Africa", "America", "Antarctica", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")


@cache
def time_zones() -> list[tuple[str, str]]:
    """Return every time zone named after a city, and an empty choice for the site's own."""
    cities = sorted(zone for zone in available_timezones() if zone.partition("/")[0] in REGIONS)
    return [("", settings.TIME_ZONE), *((zone, zone.replace("_", " ")) for zone in cities)]


class ZoneSelect(forms.Select):
    """A select whose hundreds of options are rendered once. Django would render a template for each, in 40 ms per page."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        attributes = flatatt(self.build_attrs(self.attrs, {"name": name, **(attrs or {})}))
        chosen = format_html('value="{}"', value or "")
        options = mark_safe(_zone_options().replace(chosen, f"{chosen} selected", 1))  # noqa: S308 - both are escaped
        return format_html("<select{}>{}</select>", attributes, options)


@cache
def _zone_options() -> SafeString:
    return format_html_join("\n", '<option value="{}">{}</option>', time_zones())


class AddressField(forms.CharField):
    """An e-mail address, cleaned to its canonical form."""

    widget = forms.EmailInput(attrs={"autocomplete": "email", "inputmode": "email", "autocapitalize": "none"})

    def __init__(self, **options: Any) -> None:
        super().__init__(label=_("E-mail address"), max_length=254, **options)

    def clean(self, value: Any) -> str:
        return canonical(super().clean(value))


class SignUpForm(SetPasswordMixin, forms.Form):
    """Sign up with an address and a password. The form does not reveal whether the address is known."""

    email = AddressField()
    password1, password2 = SetPasswordMixin.create_password_fields(label1=_("Password"), label2=_("Repeat password"))

    def clean(self) -> dict[str, Any]:
        self.validate_passwords()
        user = User(email=self.cleaned_data.get("email", ""))
        self.validate_password_for_user(user)
        return self.cleaned_data


class AddressForm(forms.Form):
    """One address: to resend a link, to reset a password, or to correct a mistyped address."""

    email = AddressField()


class DigitsForm(forms.Form):
    """The six digits in a mail. Spaces between them, and the digits of other scripts, do no harm."""

    digits = forms.CharField(
        label=_("Code from the e-mail"),
        help_text=_("Six digits. If the e-mail has no code, open its link."),
        max_length=20,
        widget=forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "one-time-code", "class": "digits"}),
    )

    def clean_digits(self) -> str:
        digits = "".join(str(int(sign)) for sign in self.cleaned_data["digits"] if sign.isdecimal())
        if len(digits) != 6:
            raise ValidationError(_("Enter the six digits of the code."), code="invalid")
        return digits


def knows_password(user: User, password: str, log_in: str) -> bool:
    """Whether it is the user's password. Wrong ones are counted for this log-in, whose session may be in a thief's browser."""
    counts = throttling.guesses(user.email, known=f"session {log_in}")
    if not moving_window.allows(counts):
        return False
    if user.check_password(password):
        return True
    login_alerts.count_wrong_password(user.email, counts, UNKNOWN)
    return False


class ChangePasswordForm(PasswordChangeForm):
    """Django's form, counting wrong passwords."""

    def __init__(self, *args: Any, log_in: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.log_in = log_in

    def clean_old_password(self) -> str:
        old_password: str = self.cleaned_data["old_password"]
        if not knows_password(self.user, old_password, self.log_in):
            raise ValidationError(self.error_messages["password_incorrect"], code="password_incorrect")
        return old_password


class PasswordForm(forms.Form):
    """Ask for the account's password before an important change."""

    password = forms.CharField(
        label=_("Password"),
        strip=False,
        max_length=LONGEST_PASSWORD,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )

    def __init__(self, *args: Any, user: User, log_in: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.user, self.log_in = user, log_in

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if not knows_password(self.user, password, self.log_in):
            raise ValidationError(_("This is not your password."), code="wrong")
        return password


class EmailChangeForm(PasswordForm):
    """Request another address, with the password."""

    email = AddressField()
    field_order = ("email", "password")

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"]
        if email == self.user.email:
            raise ValidationError(_("This is already your address."), code="same")
        return email


class ProfileForm(forms.ModelForm):
    """The user's name, language and time zone."""

    time_zone = forms.ChoiceField(label=_("Time zone"), required=False, choices=time_zones, widget=ZoneSelect)

    class Meta:
        model = User
        fields = ("name", "language", "time_zone")
        labels: ClassVar = {"name": _("Name"), "language": _("Language")}
        widgets: ClassVar = {"name": forms.TextInput(attrs={"autocomplete": "name"})}


class LogInForm(AuthenticationForm):
    """Log in with address and password. One answer for everything that does not log in: it must not reveal an account."""

    REFUSED = "refused"
    error_messages = {  # noqa: RUF012 - Django's forms declare it so
        "invalid_login": _(
            "This address and this password do not match, or the address is not verified yet. After many wrong passwords,"
            " none is accepted for a while. You can choose a new one."
        ),
    }

    username = UsernameField(
        label=_("E-mail address"),
        widget=forms.EmailInput(attrs={"autocomplete": "username", "autocapitalize": "none", "autofocus": True}),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["password"].validators.append(MaxLengthValidator(LONGEST_PASSWORD))

    def clean(self) -> dict[str, Any]:
        """Refuse every password after too many wrong ones."""
        address = self.cleaned_data.get("username")
        if address and not moving_window.allows(login_alerts.guesses(self.request, address)):
            raise ValidationError(self.error_messages["invalid_login"], code=self.REFUSED)
        return super().clean()

    def clean_username(self) -> str:
        typed: str = self.cleaned_data["username"]
        try:
            return canonical(typed)
        except ValidationError:
            return typed  # it matches no account, and a reason would help attackers


class StaffLogInForm(LogInForm, AdminAuthenticationForm):
    """The admin's log-in form, with the same checks as the site's."""
