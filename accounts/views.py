"""HTTP in, a use case, HTTP out."""

from typing import Any
from uuid import UUID

from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import get_language
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from accounts import signup, verification
from accounts.forms import LogInForm, ResendForm, SignUpForm
from accounts.verification import LinkState

ADDRESS_IN_SESSION = "address_to_confirm"

PAGE_OF_LINK = {
    LinkState.OPEN: ("accounts/verify.html", 200),
    LinkState.SPENT_NOW: ("accounts/verified.html", 200),
    LinkState.UNKNOWN: ("accounts/link_problem.html", 404),
}

page_with_form = require_http_methods(["GET", "HEAD", "POST"])


@page_with_form
@sensitive_post_parameters()
@never_cache
def sign_up(request: HttpRequest) -> HttpResponse:
    form = SignUpForm(request.POST or None)
    if not form.is_valid():
        return render(request, "accounts/signup.html", {"form": form})
    email = form.cleaned_data["email"]
    signup.sign_up(email, form.cleaned_data["password1"], language=get_language() or "en")
    request.session[ADDRESS_IN_SESSION] = email
    return redirect("check_inbox")


@require_safe
@never_cache
def check_inbox(request: HttpRequest) -> HttpResponse:
    """What comes after a sign-up or a resend. It says the same whether the address is known or not."""
    return render(request, "accounts/check_inbox.html", {"address": request.session.get(ADDRESS_IN_SESSION)})


@page_with_form
@never_cache
def resend(request: HttpRequest) -> HttpResponse:
    form = ResendForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, "accounts/resend.html", {"form": form})
    email = form.cleaned_data["email"]
    signup.resend_link(email)
    request.session[ADDRESS_IN_SESSION] = email
    return redirect("check_inbox")


@page_with_form
@never_cache
def verify(request: HttpRequest, verification_id: UUID, code: str) -> HttpResponse:
    """GET shows a button and changes nothing, since mail scanners follow links; POST spends the link."""
    look = verification.complete if request.method == "POST" else verification.follow
    link = look(verification_id, code)
    template, status = PAGE_OF_LINK.get(link.state, ("accounts/link_problem.html", 410))
    response = render(request, template, {"state": link.state.value, "address": link.address}, status=status)
    # The address of this page is the secret. Not "no-referrer": under it browsers send `Origin: null` with the button's
    # POST, which the CSRF check rightly refuses.
    response["Referrer-Policy"] = "strict-origin"
    return response


class LogInView(LoginView):
    template_name = "accounts/login.html"
    authentication_form = LogInForm
    redirect_authenticated_user = True

    def get_redirect_url(self, *args: Any) -> str:
        """Where `next` leads; not back to this very page, which sends those who are logged in to `next`."""
        url: str = super().get_redirect_url(*args)
        return "" if url.partition("?")[0] == self.request.path else url

    def form_invalid(self, form: Any) -> HttpResponse:
        if not form.has_error("__all__", code=LogInForm.UNVERIFIED):
            return super().form_invalid(form)
        self.request.session[ADDRESS_IN_SESSION] = form.cleaned_data["username"]
        return self.render_to_response(self.get_context_data(form=form, is_unverified=True))
