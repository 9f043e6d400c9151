"""Pages for the second factor of staff."""

from collections.abc import Callable
from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render, resolve_url
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe
from django_otp.plugins.otp_totp.models import TOTPDevice

from accounts import second_factor
from accounts.forms import PasswordForm
from accounts.models import User
from accounts.sessions import log_in_of
from accounts.views.common import page_with_form

View = Callable[[HttpRequest], HttpResponse]


class CodeForm(forms.Form):
    code = forms.CharField(
        label=gettext_lazy("Code"),
        max_length=40,
        help_text=gettext_lazy("Six digits from your app, or one of your recovery codes."),
        widget=forms.TextInput(
            attrs={"autocomplete": "one-time-code", "autocapitalize": "none", "spellcheck": "false", "autofocus": True}
        ),
    )


def for_staff(view: View) -> View:
    """Let staff in who are logged in, verified or not. To others the page does not exist."""

    def page(request: HttpRequest) -> HttpResponse:
        if not _user(request).is_staff:
            raise Http404
        return view(request)

    return sensitive_post_parameters()(login_required(page))


def verified(view: View) -> View:
    """Let staff in whose session a device has verified. Lead others to do so, or to add their first device."""

    def page(request: HttpRequest) -> HttpResponse:
        if second_factor.is_verified(request):
            return view(request)
        return redirect("second_factor_ask" if second_factor.is_enrolled(_user(request)) else "second_factor_app")

    return for_staff(page)


def may_add(view: View) -> View:
    """Let a session in that may add a device. Lead others to verify it, or to type their password again."""

    def page(request: HttpRequest) -> HttpResponse:
        if second_factor.may_add(request):
            return view(request)
        if second_factor.is_enrolled(_user(request)):
            return _lead(request, "second_factor_ask", request.get_full_path())
        return _lead(request, "second_factor_password", request.get_full_path())

    return for_staff(page)


@page_with_form
@for_staff
def ask(request: HttpRequest) -> HttpResponse:
    """Ask for a code of the app, a passkey or a recovery code."""
    user = _user(request)
    if second_factor.is_verified(request):
        return redirect(next_page(request))
    if not second_factor.is_enrolled(user):
        return _lead(request, "second_factor_app", next_page(request))
    form = CodeForm(request.POST or None)
    if form.is_valid():
        device = second_factor.device_of_code(user, form.cleaned_data["code"])
        if device is not None:
            second_factor.verify_session(request, device)
            return redirect(next_page(request))
        form.add_error("code", _("This code does not work. Wait for the next one, or use a recovery code."))
    has_passkey = any(not isinstance(device, TOTPDevice) for device in second_factor.devices(user))
    context = {"form": form, "next": next_page(request), "has_passkey": has_passkey}
    return render(request, "accounts/second_factor_ask.html", context)


@page_with_form
@for_staff
def confirm_password(request: HttpRequest) -> HttpResponse:
    """Ask for the password again: a session that was stolen must not add a device."""
    form = PasswordForm(request.POST or None, user=_user(request), log_in=log_in_of(request.session))
    if not form.is_valid():
        return render(request, "accounts/second_factor_password.html", {"form": form, "next": next_page(request)})
    second_factor.note_password(request)
    return redirect(next_page(request))


@page_with_form
@may_add
def add_app(request: HttpRequest) -> HttpResponse:
    """Show a new key as a picture and as text, and ask for a code of it."""
    user = _user(request)
    form = CodeForm(request.POST or None)
    if form.is_valid():
        if second_factor.add_app(request, user, form.cleaned_data["code"]):
            messages.success(request, _("The app is added."))
            if second_factor.recovery_codes_left(user):
                return redirect("second_factor")
            return _show_codes(request, next_page(request))
        form.add_error("code", _("This is not the code that the app shows now. Is the clock of your phone right?"))
    key = second_factor.new_key(request)
    app = second_factor.as_app(user, key)
    context = {"picture": second_factor.picture_of(app), "secret": second_factor.secret_of(key)}
    return render(request, "accounts/second_factor_app.html", {"form": form, "next": next_page(request), **context})


@require_safe
@may_add
def add_passkey(request: HttpRequest) -> HttpResponse:
    """Show the button with which the browser makes a passkey. Its script goes on to `then`."""
    then = "second_factor" if second_factor.recovery_codes_left(_user(request)) else "second_factor_codes"
    return render(request, "accounts/second_factor_passkey.html", {"then": then, "next": next_page(request)})


@page_with_form
@verified
def recovery_codes(request: HttpRequest) -> HttpResponse:
    """GET shows a button. POST makes new codes, which replace the former ones, and shows them once."""
    if request.method == "POST":
        return _show_codes(request, next_page(request))
    left = second_factor.recovery_codes_left(_user(request))
    return render(request, "accounts/second_factor_codes.html", {"left": left, "next": next_page(request)})


def _show_codes(request: HttpRequest, then: str) -> HttpResponse:
    codes = second_factor.new_recovery_codes(_user(request))
    return render(request, "accounts/second_factor_codes.html", {"codes": codes, "next": then})


@require_safe
@verified
def manage(request: HttpRequest) -> HttpResponse:
    """List the user's devices."""
    user = _user(request)
    devices = second_factor.devices(user)
    context = {
        "devices": devices,
        "codes": second_factor.recovery_codes_left(user),
        "may_remove": len(devices) > 1 or not settings.STAFF_SECOND_FACTOR,
    }
    return render(request, "accounts/second_factor.html", context)


@require_POST
@verified
def remove(request: HttpRequest) -> HttpResponse:
    if second_factor.remove(_user(request), request.POST.get("device", "")):
        messages.success(request, _("The device is removed."))
    else:
        messages.error(request, _("You cannot remove your only device. Add another one first."))
    return redirect("second_factor")


@require_safe
def staff_only(request: HttpRequest) -> HttpResponse:
    """Answer a proxy that protects other pages for staff: 204 or 401, without a body."""
    user = request.user
    is_allowed = user.is_authenticated and user.is_active and user.is_staff and second_factor.has_passed(request)
    return HttpResponse(status=204 if is_allowed else 401)


def _user(request: HttpRequest) -> User:
    return cast(User, request.user)


def next_page(request: HttpRequest) -> str:
    """Return the page to go to afterwards, if it is one of this site, or the list of devices.

    It begins with a slash: Django's `redirect` takes a word for the name of a page.
    """
    target = request.POST.get("next", request.GET.get("next", ""))
    is_safe = url_has_allowed_host_and_scheme(target, allowed_hosts=None, require_https=request.is_secure())
    return target if is_safe and target.startswith("/") else resolve_url("second_factor")


def _lead(request: HttpRequest, page: str, then: str) -> HttpResponse:
    query: Any = QueryDict(mutable=True)
    query["next"] = then
    return redirect(f"{reverse(page)}?{query.urlencode(safe='/')}")
