"""Pages from the sign-up form to the verified address."""

from functools import partial
from uuid import UUID, uuid4

from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters

from accounts import devices, signup, throttling, verification
from accounts.forms import AddressForm, DigitsForm, SignUpForm
from accounts.links import Link, LinkState
from accounts.network import network_of
from accounts.views.common import (
    ADDRESS_IN_SESSION,
    FLOW_IN_SESSION,
    SIGN_UP_IN_SESSION,
    Flow,
    SignUp,
    page_of_link,
    page_with_form,
    refuse,
    request_mail,
    to_inbox,
    use_link,
)
from mailer import outbox

TOO_MANY = "too_many"
PAGE_OF_LINK = {
    LinkState.OPEN: "accounts/verify.html",
    LinkState.NOT_THE_OWNER: "accounts/verify.html",
    LinkState.DONE: "accounts/verified.html",
}


@page_with_form
@sensitive_post_parameters()
def sign_up(request: HttpRequest) -> HttpResponse:
    form = SignUpForm(request.POST or None)
    if not form.is_valid():
        return render(request, "accounts/signup.html", {"form": form})
    if not throttling.may_ask(network_of(request)):
        return refuse(request, "accounts/signup.html", form)
    return _sign_up(request, form.cleaned_data["email"], make_password(form.cleaned_data["password1"]))


@page_with_form
@sensitive_post_parameters()
def check_inbox(request: HttpRequest) -> HttpResponse:
    """The page after a sign-up, a resend or a reset. It is the same for known and unknown addresses.

    The browser that signed up can also type the digits from the mail here.
    """
    mine = SignUp.of(request)
    if request.method == "POST" and mine is None:
        return redirect("login")
    form = DigitsForm(request.POST or None)
    if mine and form.is_valid() and _verifies(request, mine, form):
        return _remember(request, render(request, "accounts/verified.html", {"address": mine.address}), mine.address)
    address, flow = request.session.get(ADDRESS_IN_SESSION), request.session.get(FLOW_IN_SESSION)
    context = {
        "address": address,
        "flow": flow,
        "form": form,
        "may_type": mine is not None and mine.address == address and flow != Flow.RESET,
        "may_correct": mine is not None,
        "mail_is_slow": outbox.is_slow(),
        "no_mail": outbox.why_no_mail(address) if address else "",
    }
    status = 429 if form.has_error("digits", TOO_MANY) else 200
    return render(request, "accounts/check_inbox.html", context, status=status)


@page_with_form
def correct_address(request: HttpRequest) -> HttpResponse:
    """Replace a mistyped address: end its link, which cancels its mail if that still waits, and mail the right address."""
    mine = SignUp.of(request)
    if mine is None:
        return redirect("signup")
    form = AddressForm(request.POST or None, initial={"email": request.session.get(ADDRESS_IN_SESSION, "")})
    if not form.is_valid():
        return render(request, "accounts/correct_address.html", {"form": form})
    email = form.cleaned_data["email"]
    if email == request.session.get(ADDRESS_IN_SESSION):
        return redirect("check_inbox")
    if not throttling.may_ask(network_of(request)):
        return refuse(request, "accounts/correct_address.html", form)
    return _sign_up(request, email, mine.password, instead_of=UUID(mine.id))


@page_with_form
def resend(request: HttpRequest) -> HttpResponse:
    return request_mail(request, "accounts/resend.html", signup.resend_link, Flow.NEW_LINK)


@page_with_form
@sensitive_post_parameters()
def verify(request: HttpRequest, verification_id: UUID, code: str) -> HttpResponse:
    """GET shows a button and changes nothing, because mail scanners follow links. POST uses the link.

    The browser that signed up needs only the button. Any other browser needs the password, or can delete the account on a
    page of its own ("This was not me"). A form with more than the fields of one of them changes nothing.
    """
    link = verification.look_up(verification_id, code)
    mine = SignUp.of(request)
    is_mine = link.user_id is not None and _is_behind(request, mine, link)
    if request.method == "POST" and link.state is LinkState.OPEN:
        match request.POST.keys() - {"csrfmiddlewaretoken"}:
            case fields if fields == {"disown"}:
                if verification.disown(verification_id, code):
                    return page_of_link(request, "accounts/disowned.html", link)
                link = verification.look_up(verification_id, code)
            case fields if fields <= {"password"}:
                chosen = mine.password if mine and mine.address == link.address else ""
                alone = link.begun_by if is_mine else None
                use = partial(verification.complete, verification_id, code, sign_up=alone, chosen=chosen)
                link = use_link(request, link, use, is_mine=is_mine)
    template = PAGE_OF_LINK.get(link.state, "accounts/link_problem.html")
    if link.state is LinkState.OPEN and "disown" in request.GET:
        template = "accounts/disown.html"
    response = page_of_link(request, template, link, is_mine=is_mine)
    return _remember(request, response, link.address) if link.state is LinkState.DONE else response


def _verifies(request: HttpRequest, mine: SignUp, form: DigitsForm) -> bool:
    """Try the digits. Add an error to the form if they verify nothing: the same for known and unknown addresses."""
    if not throttling.may_try_digits(mine.id, network_of(request)):
        form.add_error("digits", ValidationError(_("Too many codes were tried. Use the link in the e-mail."), TOO_MANY))
        return False
    if verification.complete_with_digits(mine.address, form.cleaned_data["digits"], sign_up=UUID(mine.id)):
        return True
    form.add_error("digits", _("This is not the code. Use the one in our newest e-mail, or its link."))
    return False


def _remember(request: HttpRequest, response: HttpResponse, address: str) -> HttpResponse:
    """Make the browser that verified an address known to the account, and forget its sign-up."""
    request.session.pop(SIGN_UP_IN_SESSION, None)  # nothing is left to correct, and it contains a hash
    devices.remember(response, address)
    return response


def _sign_up(request: HttpRequest, email: str, hashed: str, *, instead_of: UUID | None = None) -> HttpResponse:
    browser = uuid4()
    signup.sign_up_hashed(email, hashed, language=get_language() or "en", browser=browser, instead_of=instead_of)
    SignUp(email, hashed, str(browser)).keep(request)
    return to_inbox(request, email, Flow.SIGN_UP)


def _is_behind(request: HttpRequest, mine: SignUp | None, link: Link) -> bool:
    """Whether this browser is logged in to the account, or is the only one that signed up for it."""
    if request.user.is_authenticated:
        return request.user.pk == link.user_id
    return mine is not None and mine.id == str(link.begun_by)
