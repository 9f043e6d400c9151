"""Pages to reset and to change a password."""

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
from django.shortcuts import redirect
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

from accounts import devices, links, passwords
from accounts.forms import ChangePasswordForm
from accounts.sessions import log_in_of
from accounts.views.common import PAGE_WITH_FORM, Flow, page_with_form, request_mail


@page_with_form
def request_reset(request: HttpRequest) -> HttpResponse:
    return request_mail(request, "accounts/password_reset.html", passwords.request_reset, Flow.RESET)


class ResetPasswordView(PasswordResetConfirmView):
    """Django moves the token from the URL into the session, so that no Referer header contains it."""

    template_name = "accounts/password_reset_confirm.html"
    form_class: Any = SetPasswordForm
    http_method_names = PAGE_WITH_FORM
    token_generator = links.reset_tokens
    success_url = reverse_lazy("login")

    def form_valid(self, form: Any) -> HttpResponse:
        token = self.request.session.pop(INTERNAL_RESET_SESSION_TOKEN)
        assert self.user is not None, "dispatch() handles unknown ones"
        is_logged_in = self.request.user == self.user
        if not passwords.reset(self.user.pk, token, form.cleaned_data["new_password1"]):
            self.validlink = False  # another request used the same token first
            return self.render_to_response(self.get_context_data())
        if is_logged_in:
            logout(self.request)  # the reset ended this session too
        messages.success(self.request, _("Your password is changed. Log in with the new one."))
        response = redirect(self.get_success_url())
        devices.remember(response, self.user.email)
        return response

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

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"log_in": log_in_of(self.request.session)}

    def form_valid(self, form: Any) -> HttpResponse:
        key = self.request.session.session_key
        with transaction.atomic():  # the lock on the account keeps it from being deleted before the new session exists
            if not passwords.change(form.user, form.cleaned_data["new_password1"], session_key=key):
                return redirect("password_change")
            form.user.refresh_from_db()
            update_session_auth_hash(self.request, form.user)  # only this session continues
        messages.success(self.request, _("Your password is changed, and you are logged out everywhere else."))
        response = redirect(self.get_success_url())
        devices.remember(response, form.user.email)
        return response
