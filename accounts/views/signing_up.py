"""Pages from the sign-up form to the verified address."""

from functools import partial
from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import get_language
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_safe

from accounts import signup, verification
from accounts.forms import AddressForm, SignUpForm
from accounts.links import LinkState
from accounts.network import network_of
from accounts.views.common import ADDRESS_IN_SESSION, page_of_link, page_with_form, request_mail, use_link

SIGN_UP_IN_SESSION = "sign_up"
"""The hash of the password that this browser signed up with, and the account, if the sign-up created one."""

PAGE_OF_LINK = {
    LinkState.OPEN: "accounts/verify.html",
    LinkState.NOT_THE_OWNER: "accounts/verify.html",
    LinkState.DONE: "accounts/verified.html",
}


@page_with_form
@sensitive_post_parameters()
@never_cache
def sign_up(request: HttpRequest) -> HttpResponse:
    form = SignUpForm(request.POST or None)
    if not form.is_valid():
        return render(request, "accounts/signup.html", {"form": form})
    return _sign_up(request, form.cleaned_data["email"], make_password(form.cleaned_data["password1"]))


@require_safe
@never_cache
def check_inbox(request: HttpRequest) -> HttpResponse:
    """The page after a sign-up, a resend or a reset. It is the same for known and unknown addresses."""
    context = {
        "address": request.session.get(ADDRESS_IN_SESSION),
        "may_correct": SIGN_UP_IN_SESSION in request.session,
    }
    return render(request, "accounts/check_inbox.html", context)


@page_with_form
@never_cache
def correct_address(request: HttpRequest) -> HttpResponse:
    """Replace a mistyped address: cancel its mail or end its link, and mail the right address."""
    mine = request.session.get(SIGN_UP_IN_SESSION)
    if mine is None:
        return redirect("signup")
    form = AddressForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, "accounts/correct_address.html", {"form": form})
    email = form.cleaned_data["email"]
    if email == request.session.get(ADDRESS_IN_SESSION):
        return redirect("check_inbox")
    return _sign_up(request, email, mine["password"], instead_of=mine["account"])


@page_with_form
@never_cache
def resend(request: HttpRequest) -> HttpResponse:
    return request_mail(request, "accounts/resend.html", signup.PURPOSE, signup.resend_link)


@page_with_form
@sensitive_post_parameters()
@never_cache
def verify(request: HttpRequest, verification_id: UUID, code: str) -> HttpResponse:
    """GET shows a button and changes nothing, because mail scanners follow links. POST uses the link.

    The browser that signed up needs only the button. Any other browser needs the account's password, or can delete the
    account ("This was not me").
    """
    link = verification.follow(verification_id, code)
    is_mine = link.user_id is not None and _account_of(request) == link.user_id
    if request.method == "POST" and link.state is LinkState.OPEN:
        if "disown" in request.POST:
            if verification.disown(verification_id, code):
                return page_of_link(request, "accounts/disowned.html", link)
            link = verification.follow(verification_id, code)
        else:
            link = use_link(request, link, partial(verification.complete, verification_id, code), is_mine=is_mine)
        if link.state is LinkState.DONE:
            request.session.pop(SIGN_UP_IN_SESSION, None)  # nothing is left to correct, and it contains a hash
    template = PAGE_OF_LINK.get(link.state, "accounts/link_problem.html")
    return page_of_link(request, template, link, is_mine=is_mine)


def _sign_up(request: HttpRequest, email: str, hashed: str, *, instead_of: int | None = None) -> HttpResponse:
    language, network = get_language() or "en", network_of(request)
    account = signup.sign_up_hashed(email, hashed, language=language, network=network, instead_of=instead_of)
    request.session[ADDRESS_IN_SESSION] = email
    request.session[SIGN_UP_IN_SESSION] = {"password": hashed, "account": account}
    return redirect("check_inbox")


def _account_of(request: HttpRequest) -> int | None:
    """Return the account that this browser is logged in to, or created."""
    if request.user.is_authenticated:
        return request.user.pk
    account: int | None = request.session.get(SIGN_UP_IN_SESSION, {}).get("account")
    return account
