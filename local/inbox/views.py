"""The pages, and the JSON API for tests and scripts. An unknown id raises Missing, which is Django's 404."""

from datetime import UTC, datetime
from typing import Any

from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.http import content_disposition_header
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from local.inbox import markup
from local.inbox.listing import Listing, Summary
from local.inbox.reading import NO_TYPE, read

PER_PAGE = 100
MAX_SHOWN = 300_000  # characters of a text on a page, with a link to the whole text
PLAIN = "text/plain; charset=utf-8"


@require_safe
def message_list(request: HttpRequest) -> HttpResponse:
    """Show the messages that match the search, newest first."""
    listing = _listing(request)
    query = request.GET.get("q", "").strip()
    # Read before the list: a mail that arrives in between then causes one update too many, not one too few.
    context = {"revision": listing.revision(), "query": query, "smtp_address": request.META["inbox.smtp_address"]}
    found = Paginator(listing.newest_first(query), PER_PAGE).get_page(request.GET.get("page"))
    today = datetime.now(UTC).astimezone().date()
    return render(request, "inbox/list.html", context | {"page": found, "today": today})


@require_safe
def revision(request: HttpRequest) -> HttpResponse:
    """Answer the script of the list, which asks every 1.5 seconds."""
    return HttpResponse(_listing(request).revision(), content_type=PLAIN)


@require_safe
def message(request: HttpRequest, message_id: str) -> HttpResponse:
    """Show one message on the tab that ?show= names."""
    source = _listing(request).source(message_id)
    reading = read(source)
    context = {
        "message": _listing(request).summary(message_id),
        "reading": reading,
        "tab": request.GET.get("show") or ("text" if reading.html is None else "html"),
        "text": markup.linked((reading.text or "")[:MAX_SHOWN]),
        "source": source[:MAX_SHOWN].decode("utf-8", "replace"),
        "limit": MAX_SHOWN,
        "sandbox": markup.SANDBOX,
    }
    return render(request, "inbox/message.html", context)


@require_safe
def html_part(request: HttpRequest, message_id: str) -> HttpResponse:
    """Return the HTML of the mail for the frame. Its policy also protects a tab that opens it directly."""
    reading = read(_listing(request).source(message_id))
    if reading.html is None:
        raise Http404
    parts_url = request.build_absolute_uri(f"{reverse('message', args=[message_id])}parts/")
    policy = {"Content-Security-Policy": markup.policy(parts_url)}
    return HttpResponse(markup.framed(reading.html, reading.parts, parts_url), headers=policy)


@require_safe
def source(request: HttpRequest, message_id: str) -> HttpResponse:
    """Return the bytes as they were received."""
    return HttpResponse(_listing(request).source(message_id), content_type=PLAIN)


@require_safe
def part(request: HttpRequest, message_id: str, number: int) -> HttpResponse:
    """Return an attachment as a download. Pictures keep their type, so that the HTML can show them."""
    parts = {part.number: part for part in read(_listing(request).source(message_id)).parts}
    if number not in parts:
        raise Http404
    found = parts[number]
    response = HttpResponse(found.content, content_type=found.content_type if found.is_image else NO_TYPE)
    response.headers["Content-Disposition"] = content_disposition_header(True, found.filename) or "attachment"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"  # an SVG can hold a script
    return response


@require_POST
def delete(request: HttpRequest, message_id: str = "") -> HttpResponse:
    """Delete one message, or all."""
    if message_id:
        _listing(request).remove(message_id)
    else:
        _listing(request).clear()
    return redirect("list")


@csrf_exempt  # a script has no token; web.guard checks its origin
@require_http_methods(["GET", "HEAD", "DELETE"])
def api_messages(request: HttpRequest) -> HttpResponse:
    """GET: the messages that match ?q=, newest first. DELETE: delete all messages."""
    listing = _listing(request)
    if request.method == "DELETE":
        listing.clear()
        return JsonResponse({"messages": []})
    found = listing.newest_first(request.GET.get("q", ""))
    return JsonResponse({"messages": [_brief(each) for each in found]})


@csrf_exempt
@require_http_methods(["GET", "HEAD", "DELETE"])
def api_message(request: HttpRequest, message_id: str) -> HttpResponse:
    """GET: one message with its whole content. DELETE: delete it."""
    source = _listing(request).source(message_id)
    if request.method == "DELETE":
        _listing(request).remove(message_id)
        return HttpResponse(status=204)
    reading = read(source)
    names = ("number", "filename", "content_type", "content_id")
    files = [{name: getattr(part, name) for name in names} | {"size": len(part.content)} for part in reading.parts]
    content = {"headers": reading.headers, "text": reading.text, "html": reading.html, "attachments": files}
    return JsonResponse(_brief(_listing(request).summary(message_id)) | content)


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer while the process lives."""
    return HttpResponse("ok\n", content_type=PLAIN)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Explain that the message may have been deleted, for example in another tab."""
    if request.path.startswith("/api/"):
        return JsonResponse({"error": "There is no such message."}, status=404)
    return render(request, "inbox/not_found.html", status=404)


def _listing(request: HttpRequest) -> Listing:
    listing: Listing = request.META["inbox.listing"]
    return listing


def _brief(summary: Summary) -> dict[str, Any]:
    return {
        "id": summary.id,
        "from": summary.sender,
        "envelope_from": summary.envelope_sender,
        "to": summary.recipients,
        "subject": summary.subject,
        "date": summary.received.isoformat(),
        "size": summary.size,
        "message_id": summary.message_id,
    }


# An id is a slug, so no address can point to another file.
urlpatterns = [
    path("", message_list, name="list"),
    path("revision", revision, name="revision"),
    path("delete/", delete, name="delete-all"),
    path("messages/<slug:message_id>/", message, name="message"),
    path("messages/<slug:message_id>/html/", html_part, name="html"),
    path("messages/<slug:message_id>/source/", source, name="source"),
    path("messages/<slug:message_id>/parts/<int:number>/", part, name="part"),
    path("messages/<slug:message_id>/delete/", delete, name="delete"),
    path("api/messages", api_messages),
    path("api/messages/<slug:message_id>", api_message),
    path("healthz", healthz),
]
handler404 = not_found
