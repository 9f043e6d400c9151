"""What the pages of this app share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from accounts import login_alerts, throttling
from accounts.forms import AddressForm
from accounts.links import Link, LinkState
from accounts.network import network_of
from accounts.password_length import LONGEST_PASSWORD

ADDRESS_IN_SESSION = "address_to_confirm"
"""The address that was typed last, known or not. Pages repeat it."""

PAGE_WITH_FORM = ["get", "head", "post"]
"""For Django's own views, which would treat PUT as POST."""
page_with_form = require_http_methods([method.upper() for method in PAGE_WITH_FORM])

WORKING = (LinkState.OPEN, LinkState.NOT_THE_OWNER, LinkState.REVERSIBLE, LinkState.DONE)


def request_mail(request: HttpRequest, template: str, purpose: str, send: Callable[[str], None]) -> HttpResponse:
    """Ask for an address and call `send` with it, within the limits. The answer is the same for every address."""
    form = AddressForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, template, {"form": form})
    email = form.cleaned_data["email"]
    if throttling.may_mail(purpose, email, network_of(request)):
        send(email)
    request.session[ADDRESS_IN_SESSION] = email
    return redirect("check_inbox")


def use_link(request: HttpRequest, link: Link, use: Callable[..., Link], *, is_mine: bool) -> Link:
    """Call `use` with the password that was typed, or with None in the owner's browser. Count wrong passwords."""
    if is_mine:
        return use(password=None)
    network = network_of(request)
    if not throttling.may_guess(link.address, network):
        return replace(link, state=LinkState.NOT_THE_OWNER)
    password = request.POST.get("password", "")[:LONGEST_PASSWORD]
    used = use(password=password)
    if used.state is LinkState.NOT_THE_OWNER and password:
        login_alerts.count(link.address, network)
    return used


def page_of_link(request: HttpRequest, template: str, link: Link, **context: Any) -> HttpResponse:
    """Render a page whose URL is a secret.

    The policy is not "no-referrer": with it, browsers send `Origin: null` when the button is pressed, and the CSRF check
    refuses that.
    """
    context = {"state": link.state.value, "address": link.address, "new_address": link.new_address, **context}
    status = 200 if link.state in WORKING else 404 if link.state is LinkState.UNKNOWN else 410
    response = render(request, template, context, status=status)
    response["Referrer-Policy"] = "strict-origin"
    return response
