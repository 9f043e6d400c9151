"""The page to unsubscribe from a stream or to subscribe again. Mail clients post to it too (RFC 2369, RFC 8058)."""

from datetime import timedelta

from django.core.signing import BadSignature, TimestampSigner
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from mailer.recipients import subscriptions
from mailer.recipients.subscriptions import BrokenLink, Membership

PAGE_LIFETIME = timedelta(hours=1)
"""How long the button to subscribe again works after the page was shown."""


@csrf_exempt  # the secret link is the permission; a mail client has no cookie and no CSRF token
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """Unsubscribe on POST, or subscribe again if the form has the field `resubscribe`.

    GET only shows a button, because mail scanners follow links. POST answers with a page, because mail clients do not
    follow redirects. A second POST changes nothing. With `resubscribe` but without our page's token, it unsubscribes.
    """
    try:
        membership = subscriptions.read(token)
    except BrokenLink:
        return _page(request, "problem", status=404)
    if request.method != "POST":
        state = "unsubscribed" if subscriptions.is_unsubscribed(membership) else "subscribed"
        return _page(request, state, membership)
    if "resubscribe" in request.POST and _is_of_our_page(request.POST["resubscribe"], membership):
        subscriptions.resubscribe(membership)
        return _page(request, "resubscribed", membership)
    subscriptions.unsubscribe(membership)
    return _page(request, "unsubscribed", membership)


def _page(request: HttpRequest, state: str, membership: Membership | None = None, *, status: int = 200) -> HttpResponse:
    context = {"state": state}
    if membership:
        context |= {"stream": membership.stream.label, "address": _masked(membership.address)}
        context |= {"page_token": _signer(membership).sign("page")}
    response = render(request, "mailer/unsubscribe.html", context, status=status)
    response["Referrer-Policy"] = "strict-origin"  # the URL of this page is a secret
    return response


def _is_of_our_page(page_token: str, membership: Membership) -> bool:
    """Return whether the form is on our own page, not on another site that knows the link."""
    try:
        return _signer(membership).unsign(page_token, max_age=PAGE_LIFETIME) == "page"
    except BadSignature:
        return False


def _signer(membership: Membership) -> TimestampSigner:
    return TimestampSigner(salt=f"mailer.resubscribe:{membership.stream.name}:{membership.address}")


def _masked(address: str) -> str:
    """Shorten the address: the recipient still recognises it, but a person who got the mail forwarded cannot read it."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}"
