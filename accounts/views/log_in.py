"""The log-in page."""

from typing import Any

from django.conf import settings
from django.contrib.auth.views import LoginView
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect

from accounts import devices
from accounts.forms import LogInForm
from accounts.models import User
from accounts.views.common import PAGE_WITH_FORM, SignUp


class LogInView(LoginView):
    template_name = "accounts/login.html"
    authentication_form = LogInForm
    redirect_authenticated_user = True
    http_method_names = PAGE_WITH_FORM

    def get_redirect_url(self, *args: Any) -> str:
        """Return `next`, unless it is this page: it redirects users who are logged in to `next`, without end."""
        url: str = super().get_redirect_url(*args)
        return "" if url.partition("?")[0] == self.request.path else url

    def form_valid(self, form: Any) -> HttpResponse:
        with transaction.atomic():
            if not User.objects.select_for_update().filter(pk=form.get_user().pk).exists():
                return redirect("login")  # the account was deleted after its password was checked
            response = super().form_valid(form)
        remember_language(response, form.get_user())
        devices.remember(response, form.get_user().email)
        return response

    def get_context_data(self, **context: Any) -> dict[str, Any]:
        """Say that the address is to be verified first if this browser signed up with it, known or not."""
        form, signed_up, is_unverified = context.get("form"), SignUp.of(self.request), False
        if form and signed_up and form.has_error("__all__", "invalid_login"):  # not above a limit: a hash takes time
            is_unverified = signed_up.matches(form.cleaned_data["username"], form.cleaned_data["password"])
        return super().get_context_data(**context, is_unverified=is_unverified)


def remember_language(response: HttpResponse, user: User) -> None:
    """Set the language cookie of this browser to the user's language."""
    response.set_cookie(
        settings.LANGUAGE_COOKIE_NAME,
        user.language,
        max_age=365 * 86_400,
        httponly=True,
        secure=settings.SESSION_COOKIE_SECURE,
        samesite="Lax",
    )
