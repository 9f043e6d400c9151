"""Buttons on operators' pages: small forms, each of which posts to a page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from mailer.admin.history import record
from mailer.admin.read_only import DECIDE
from mailer.delivery.pulse import Action
from mailer.models import Message

LONGEST_NUMBER = 20
"""Digits. Python refuses to read a number of thousands."""

VIEWS = {
    Action.DELIVER: "admin:mailer_deliver_now",
    Action.PROBE: "admin:mailer_probe_now",
    Action.RESUME: "admin:mailer_resume_now",
    Action.RESUME_STREAM: "admin:mailer_resume_stream",
}
"""The pages that these buttons post to. Other actions concern one message only."""


@dataclass(frozen=True, slots=True)
class Button:
    """A button: a form that posts hidden fields to a page."""

    label: str
    url: str
    fields: Mapping[str, object] = field(default_factory=dict)
    is_main: bool = False


def button_of(action: Action | None, target: str = "", **fields: object) -> Button | None:
    """Return the button of an action that is not about one message only; None for others. `target` is what it is about."""
    view = VIEWS.get(action) if action else None
    return Button(str(action), reverse(view, args=[target] if target else []), fields, is_main=True) if view else None


def button(label: str, permission: str = DECIDE) -> Callable[[Callable[..., str]], Callable[..., HttpResponse]]:
    """Make a view of a function that does what a button says, and returns the sentence that the operator reads then.

    Only those with the permission may press it, by default those who may decide about messages. Two fields of its form may be
    filled in: `next`, the page to return to, and `message`, the number of the message on whose page it was pressed, which
    keeps who pressed it.
    """

    def make(press: Callable[..., str]) -> Callable[..., HttpResponse]:
        @wraps(press)
        def view(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
            if not request.user.has_perm(permission):
                raise PermissionDenied
            if request.method != "POST":
                return HttpResponseNotAllowed(["POST"])
            messages.info(request, press(request, *args, **kwargs))
            number = request.POST.get("message", "")
            if number.isdecimal() and len(number) < LONGEST_NUMBER:
                record(request, Message.objects.filter(pk=number).only("kind"), label)
            return HttpResponseRedirect(page_to_return_to(request))

        return view

    return make


def page_to_return_to(request: HttpRequest) -> str:
    """Return the page of ours that the form names in `next`, or the front page of the admin."""
    page = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(page, {request.get_host()}, require_https=request.is_secure())
    return page if page.startswith("/") and is_ours else reverse("admin:index")
