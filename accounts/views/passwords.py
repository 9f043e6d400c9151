"""Forgetting a password, and choosing another one."""

from typing import Any

from django.contrib import messages
from django.contrib.auth import logout, update_session_auth_hash
from django.contrib.auth.forms import SetPasswordForm
from django.contrib.auth.views import (
    INTERNAL_RESET_SESSION_TOKEN,
    PasswordChangeView,
    PasswordResetConfirmView,
)
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache

from accounts import links, passwords, throttling
from accounts.forms import AddressForm, ChangePasswordForm
from accounts.network import network_of
from accounts.views.common import ADDRESS_IN_SESSION, PAGE_WITH_FORM, page_with_form


@page_with_form
@never_cache
def request_reset(request: HttpRequest) -> HttpResponse:
    form = AddressForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, "accounts/password_reset.html", {"form": form})
    email = form.cleaned_data["email"]
    if throttling.may_mail(throttling.RESET, email, network_of(request)):
        passwords.request_reset(email)
    request.session[ADDRESS_IN_SESSION] = email
    return redirect("check_inbox")


class ResetPasswordView(PasswordResetConfirmView):
    """Django moves the token from the address into the session, so that it stands in no Referer."""

    template_name = "accounts/password_reset_confirm.html"
    form_class: Any = SetPasswordForm
    http_method_names = PAGE_WITH_FORM
    token_generator = links.reset_tokens
    success_url = reverse_lazy("login")

    def form_valid(self, form: Any) -> HttpResponse:
        token = self.request.session.pop(INTERNAL_RESET_SESSION_TOKEN)
        assert self.user is not None, "dispatch() answers unknown ones"
        is_logged_in = self.request.user == self.user
        if not passwords.reset(self.user.pk, token, form.cleaned_data["new_password1"]):
            self.validlink = False  # somebody else was quicker with the same token
            return self.render_to_response(self.get_context_data())
        if is_logged_in:
            logout(self.request)  # this session is one of those that have just ended
        messages.success(self.request, _("Your password is changed. Log in with the new one."))
        return redirect(self.get_success_url())

    def render_to_response(self, context: dict[str, Any], **options: Any) -> HttpResponse:
        response = super().render_to_response(context, **options)
        response.status_code = 200 if context.get("validlink") else 410
        response["Referrer-Policy"] = "strict-origin"
        return response


class ChangePasswordView(PasswordChangeView):
    template_name = "accounts/password_change.html"
    form_class = ChangePasswordForm
    http_method_names = PAGE_WITH_FORM
    success_url = reverse_lazy("profile")

    def form_valid(self, form: Any) -> HttpResponse:
        key = self.request.session.session_key
        with transaction.atomic():  # while the account is locked nobody can delete it, which the new session would miss
            if not passwords.change(form.user, form.cleaned_data["new_password1"], session_key=key):
                return redirect("password_change")
            form.user.refresh_from_db()
            update_session_auth_hash(self.request, form.user)  # this session, and no other, goes on
        messages.success(self.request, _("Your password is changed, and you are logged out everywhere else."))
        return redirect(self.get_success_url())
