"""The page on which a reader leaves a stream, or comes back to it, and to which her mail client posts (RFC 2369, RFC 8058)."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from mailer.recipients import subscriptions
from mailer.recipients.subscriptions import BrokenLink, Membership

METHODS = ("GET", "HEAD", "POST")


@csrf_exempt  # the link is the permission: a mail client has neither a cookie nor a token of ours, and strangers lack the link
@never_cache
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """GET shows a button and changes nothing, since mail scanners follow links. POST leaves, or returns if it says so, and
    answers with the page itself: mail clients follow no redirect, and doing it twice changes nothing."""
    if request.method not in METHODS:
        response = _page(request, "problem", status=405)
        response["Allow"] = ", ".join(METHODS)
        return response
    try:
        membership = subscriptions.read(token)
    except BrokenLink:
        return _page(request, "problem", status=404)
    if request.method != "POST":
        return _page(request, "left" if subscriptions.is_unsubscribed(membership) else "member", membership)
    if "return" in request.POST:
        subscriptions.resubscribe(membership)
        return _page(request, "returned", membership)
    subscriptions.unsubscribe(membership)
    return _page(request, "left", membership)


def _page(request: HttpRequest, state: str, membership: Membership | None = None, *, status: int = 200) -> HttpResponse:
    context = {"state": state}
    if membership:
        context |= {"stream": membership.stream.label, "address": _recognisable(membership.address)}
    response = render(request, "mailer/unsubscribe.html", context, status=status)
    response["Referrer-Policy"] = "strict-origin"  # the address of this page is a secret
    return response


def _recognisable(address: str) -> str:
    """Enough for the reader to know which of her addresses it is, too little for somebody whom the mail was forwarded to."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}"
