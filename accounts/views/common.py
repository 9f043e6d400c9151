"""What the pages of this app share."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from django.contrib.auth.hashers import check_password
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts import login_alerts, moving_window, throttling
from accounts.forms import AddressForm
from accounts.links import Link, LinkState
from accounts.network import network_of
from accounts.password_length import LONGEST_PASSWORD

SIGN_UP_IN_SESSION = "sign_up"
ADDRESS_IN_SESSION = "address_to_confirm"
"""The address that was typed last, known or not. Pages repeat it."""
FLOW_IN_SESSION = "asked_for"
"""What the last mail was asked for: a Flow."""

PAGE_WITH_FORM = ["get", "head", "post"]
"""For Django's own views, which would treat PUT as POST."""
page_with_form = require_http_methods([method.upper() for method in PAGE_WITH_FORM])

WORKING = (LinkState.OPEN, LinkState.NOT_THE_OWNER, LinkState.REVERSIBLE, LinkState.DONE)


class Flow(StrEnum):
    """What a user asked for who is told to check the inbox."""

    SIGN_UP = "sign_up"
    NEW_LINK = "new_link"
    RESET = "reset"


@dataclass(frozen=True)
class SignUp:
    """A sign-up of this browser, kept in its session. It exists for known and unknown addresses alike."""

    address: str
    password: str
    """Its hash."""
    id: str

    @classmethod
    def of(cls, request: HttpRequest) -> "SignUp | None":
        """Return the last sign-up of this browser."""
        kept = request.session.get(SIGN_UP_IN_SESSION)
        return cls(**kept) if kept and kept.keys() == {"address", "password", "id"} else None

    def keep(self, request: HttpRequest) -> None:
        """Keep it in the session, under a new key: a session that was planted in this browser must not get it."""
        request.session.cycle_key()
        request.session[SIGN_UP_IN_SESSION] = asdict(self)

    def matches(self, address: str | None, password: str) -> bool:
        """Whether this browser signed up with this address and this password."""
        return address == self.address and check_password(password, self.password)


def request_mail(request: HttpRequest, template: str, send: Callable[[str], None], flow: Flow) -> HttpResponse:
    """Ask for an address and call `send` with it. The answer is the same for every address."""
    form = AddressForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, template, {"form": form})
    if not throttling.may_ask(network_of(request)):
        return refuse(request, template, form)
    email = form.cleaned_data["email"]
    send(email)
    return to_inbox(request, email, flow)


def to_inbox(request: HttpRequest, email: str, flow: Flow) -> HttpResponse:
    """Redirect to the page that says that a mail is on its way."""
    request.session[ADDRESS_IN_SESSION], request.session[FLOW_IN_SESSION] = email, flow
    return redirect("check_inbox")


def refuse(request: HttpRequest, template: str, form: Form) -> HttpResponse:
    """Show the form again: the network has asked too often. It depends on no address."""
    form.add_error(None, _("There were too many requests from your network. Please try again in an hour."))
    return render(request, template, {"form": form}, status=429)


def use_link(request: HttpRequest, link: Link, use: Callable[..., Link], *, is_mine: bool) -> Link:
    """Call `use` with the password that was typed, or with None in the owner's browser. Count wrong passwords."""
    if is_mine:
        return use(password=None)
    counts = throttling.guesses(link.address, known=f"link {request.path}")
    if not moving_window.allows(counts):
        return replace(link, state=LinkState.NOT_THE_OWNER)
    password = request.POST.get("password", "")[:LONGEST_PASSWORD]
    used = use(password=password)
    if used.state is LinkState.NOT_THE_OWNER and password:
        login_alerts.count_wrong_password(link.address, counts, network_of(request))
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
