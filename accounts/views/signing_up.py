"""From the form to the verified address."""

from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import get_language
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_safe

from accounts import login_alerts, signup, throttling, verification
from accounts.forms import AddressForm, SignUpForm
from accounts.network import network_of
from accounts.password_length import LONGEST_PASSWORD
from accounts.verification import LinkState
from accounts.views.common import ADDRESS_IN_SESSION, page_of_link, page_with_form

SIGN_UP_IN_SESSION = "sign_up"
"""What this browser signed up with: the password's hash, and the account, if it was it that made it."""

PAGE_OF_LINK = {
    LinkState.OPEN: ("accounts/verify.html", 200),
    LinkState.NOT_THE_OWNER: ("accounts/verify.html", 200),
    LinkState.SPENT_NOW: ("accounts/verified.html", 200),
    LinkState.UNKNOWN: ("accounts/link_problem.html", 404),
}


@page_with_form
@sensitive_post_parameters()
@never_cache
def sign_up(request: HttpRequest) -> HttpResponse:
    form = SignUpForm(request.POST or None)
    if not form.is_valid():
        return render(request, "accounts/signup.html", {"form": form})
    email, hashed = form.cleaned_data["email"], make_password(form.cleaned_data["password1"])
    account = signup.sign_up_hashed(email, hashed, language=_language(), network=network_of(request))
    return _ask_to_look(request, email, hashed, account)


@require_safe
@never_cache
def check_inbox(request: HttpRequest) -> HttpResponse:
    """What comes after a sign-up or a resend. It says the same whether the address is known or not."""
    context = {
        "address": request.session.get(ADDRESS_IN_SESSION),
        "may_correct": SIGN_UP_IN_SESSION in request.session,
    }
    return render(request, "accounts/check_inbox.html", context)


@page_with_form
@never_cache
def correct_address(request: HttpRequest) -> HttpResponse:
    """For a mistyped address: the mail to it is cancelled or its link dies, and another one gets a mail."""
    mine = request.session.get(SIGN_UP_IN_SESSION)
    if mine is None:
        return redirect("signup")
    form = AddressForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, "accounts/correct_address.html", {"form": form})
    email = form.cleaned_data["email"]
    if email == request.session.get(ADDRESS_IN_SESSION):
        return redirect("check_inbox")
    account = signup.correct(
        email,
        mine["password"],
        instead_of=mine["account"],
        language=_language(),
        network=network_of(request),
    )
    return _ask_to_look(request, email, mine["password"], account)


@page_with_form
@never_cache
def resend(request: HttpRequest) -> HttpResponse:
    form = AddressForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, "accounts/resend.html", {"form": form})
    email = form.cleaned_data["email"]
    if throttling.may_mail(signup.PURPOSE, email, network_of(request)):
        signup.resend_link(email)
    request.session[ADDRESS_IN_SESSION] = email
    return redirect("check_inbox")


@page_with_form
@sensitive_post_parameters()
@never_cache
def verify(request: HttpRequest, verification_id: UUID, code: str) -> HttpResponse:
    """GET shows a button and changes nothing, since mail scanners follow links; POST spends the link.

    In the browser that signed up the button is enough. Any other one is asked for the account's password, or may say that
    the account is not theirs.
    """
    link = verification.follow(verification_id, code)
    is_mine = link.user_id is not None and _account_of(request) == link.user_id
    if request.method == "POST" and link.state is LinkState.OPEN:
        if "disown" in request.POST:
            if verification.disown(verification_id, code):
                return page_of_link(request, "accounts/disowned.html", {"address": link.address})
            link = verification.follow(verification_id, code)
        else:
            link = _complete(request, link, verification_id, code, is_mine=is_mine)
        if link.state is LinkState.SPENT_NOW:
            request.session.pop(SIGN_UP_IN_SESSION, None)  # there is nothing left to correct, and it holds a hash
    template, status = PAGE_OF_LINK.get(link.state, ("accounts/link_problem.html", 410))
    context = {"state": link.state.value, "address": link.address, "is_mine": is_mine}
    return page_of_link(request, template, context, status)


def _complete(
    request: HttpRequest, link: verification.Link, verification_id: UUID, code: str, *, is_mine: bool
) -> verification.Link:
    network = network_of(request)
    if not is_mine and not throttling.may_guess(link.address, network):
        return verification.Link(LinkState.NOT_THE_OWNER, link.address, link.user_id)
    password = None if is_mine else request.POST.get("password", "")[:LONGEST_PASSWORD]
    completed = verification.complete(verification_id, code, password=password)
    if completed.state is LinkState.NOT_THE_OWNER and password:
        login_alerts.count(link.address, network)
    return completed


def _ask_to_look(request: HttpRequest, email: str, hashed: str, account: int | None) -> HttpResponse:
    request.session[ADDRESS_IN_SESSION] = email
    request.session[SIGN_UP_IN_SESSION] = {"password": hashed, "account": account}
    return redirect("check_inbox")


def _account_of(request: HttpRequest) -> int | None:
    """The account that this browser made, or is logged in to."""
    if request.user.is_authenticated:
        return request.user.pk
    account: int | None = request.session.get(SIGN_UP_IN_SESSION, {}).get("account")
    return account


def _language() -> str:
    return get_language() or "en"
