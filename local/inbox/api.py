"""The JSON API, for tests and scripts."""

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from local.inbox.listing import Listing, Summary
from local.inbox.reading import Part, read
from local.inbox.store import Missing
from local.inbox.web import listing_of


@csrf_exempt  # a script has no token; _from_a_foreign_page stands in
@require_http_methods(["GET", "HEAD", "DELETE"])
def messages(request: HttpRequest) -> HttpResponse:
    """GET: the messages that match ?q=, newest first. DELETE: empties the inbox."""
    listing = listing_of(request)
    if request.method == "DELETE":
        return _refusal(request) or _emptied(listing)
    query = request.GET.get("q", "")
    return JsonResponse({"messages": [_brief(summary) for summary in listing.newest_first(query)]})


@csrf_exempt
@require_http_methods(["GET", "HEAD", "DELETE"])
def message(request: HttpRequest, message_id: str) -> HttpResponse:
    """GET: one message with all that it says. DELETE: forgets it."""
    listing = listing_of(request)
    try:
        if request.method == "DELETE":
            return _refusal(request) or _removed(listing, message_id)
        return JsonResponse(_brief(listing.summary(message_id)) | _content(listing.store.source(message_id)))
    except Missing:
        return JsonResponse({"error": "There is no such message."}, status=404)


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


def _content(source: bytes) -> dict[str, Any]:
    reading = read(source)
    attachments = [_description(part) for part in reading.parts]
    return {"headers": reading.headers, "text": reading.text, "html": reading.html, "attachments": attachments}


def _description(part: Part) -> dict[str, Any]:
    return {
        "number": part.number,
        "filename": part.filename,
        "content_type": part.content_type,
        "content_id": part.content_id,
        "size": part.size,
    }


def _emptied(listing: Listing) -> HttpResponse:
    listing.store.clear()
    return JsonResponse({"messages": []})


def _removed(listing: Listing, message_id: str) -> HttpResponse:
    listing.store.source(message_id)  # raises Missing
    listing.store.remove(message_id)
    return HttpResponse(status=204)


def _refusal(request: HttpRequest) -> HttpResponse | None:
    if _from_a_foreign_page(request):
        return JsonResponse({"error": "Another site's page may not change the inbox."}, status=403)
    return None


def _from_a_foreign_page(request: HttpRequest) -> bool:
    """Browsers name the page behind a request, in at least one of these headers; scripts send neither."""
    origin = request.headers.get("Origin")
    is_foreign = origin is not None and origin != f"{request.scheme}://{request.get_host()}"
    return is_foreign or request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
