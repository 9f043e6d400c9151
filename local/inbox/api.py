"""The JSON API for tests and scripts."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from local.inbox.listing import Summary
from local.inbox.reading import Part, read
from local.inbox.store import Missing
from local.inbox.web import listing_of


def _endpoint(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Answer errors in JSON. A script has no CSRF token, so the request's origin is checked instead."""

    @csrf_exempt
    @require_http_methods(["GET", "HEAD", "DELETE"])
    @wraps(view)
    def endpoint(request: HttpRequest, **arguments: str) -> HttpResponse:
        if request.method == "DELETE" and _from_another_site(request):
            return JsonResponse({"error": "A page of another site may not change the inbox."}, status=403)
        try:
            return view(request, **arguments)
        except Missing:
            return JsonResponse({"error": "There is no such message."}, status=404)

    return endpoint


@_endpoint
def messages(request: HttpRequest) -> HttpResponse:
    """GET: the messages that match ?q=, newest first. DELETE: delete all messages."""
    listing = listing_of(request)
    if request.method == "DELETE":
        listing.store.clear()
        return JsonResponse({"messages": []})
    return JsonResponse({"messages": [_brief(each) for each in listing.newest_first(request.GET.get("q", ""))]})


@_endpoint
def message(request: HttpRequest, message_id: str) -> HttpResponse:
    """GET: one message with its whole content. DELETE: delete it."""
    listing = listing_of(request)
    source = listing.store.source(message_id)  # raises Missing
    if request.method == "DELETE":
        listing.store.remove(message_id)
        return HttpResponse(status=204)
    reading = read(source)
    attachments = [_description(part) for part in reading.parts]
    content = {"headers": reading.headers, "text": reading.text, "html": reading.html, "attachments": attachments}
    return JsonResponse(_brief(listing.summary(message_id)) | content)


def _brief(summary: Summary) -> dict[str, Any]:
    return {
        "id": summary.id,
        "from": summary.sender,
        "envelope_from": summary.envelope_sender,
        "to": list(summary.recipients),
        "subject": summary.subject,
        "date": summary.received.isoformat(),
        "size": summary.size,
        "message_id": summary.message_id,
    }


def _description(part: Part) -> dict[str, Any]:
    names = ("number", "filename", "content_type", "content_id")
    return {name: getattr(part, name) for name in names} | {"size": len(part.content)}


def _from_another_site(request: HttpRequest) -> bool:
    """Browsers name the page behind a request in at least one of these headers; scripts send neither."""
    origin = request.headers.get("Origin")
    is_foreign = origin is not None and origin != f"{request.scheme}://{request.get_host()}"
    return is_foreign or request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
