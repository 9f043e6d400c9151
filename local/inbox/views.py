"""The pages."""

from datetime import UTC, datetime

from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_POST, require_safe

from local.inbox import framing
from local.inbox.links import linked
from local.inbox.reading import NO_TYPE, Reading, read
from local.inbox.store import Missing
from local.inbox.web import SMTP_ADDRESS, listing_of

PER_PAGE = 100
MAX_SHOWN = 300_000  # characters of a text on a page, with a link to the whole text
TABS = ("html", "text", "headers", "source", "attachments")
PLAIN = "text/plain; charset=utf-8"


@require_safe
def message_list(request: HttpRequest) -> HttpResponse:
    """Show the messages that match the search, newest first."""
    listing = listing_of(request)
    query = request.GET.get("q", "").strip()
    # Read before the list: a mail that arrives in between then causes one update too many, not one too few.
    context = {"revision": listing.revision(), "query": query, "smtp_address": request.META[SMTP_ADDRESS]}
    found = Paginator(listing.newest_first(query), PER_PAGE).get_page(request.GET.get("page"))
    today = datetime.now(UTC).astimezone().date()
    return render(request, "inbox/list.html", context | {"page": found, "today": today})


@require_safe
def revision(request: HttpRequest) -> HttpResponse:
    """Answer the script of the list, which asks every 1.5 seconds."""
    return HttpResponse(listing_of(request).revision(), content_type=PLAIN)


@require_safe
def message(request: HttpRequest, message_id: str) -> HttpResponse:
    """Show one message on the tab that ?show= names."""
    source, reading = _opened(request, message_id)
    tab = _tab(request.GET.get("show", ""), reading)
    context = {"message": listing_of(request).summary(message_id), "reading": reading, "tab": tab, "limit": MAX_SHOWN}
    if tab == "text":
        context["text"] = linked((reading.text or "")[:MAX_SHOWN])
        context["is_cut"] = len(reading.text or "") > MAX_SHOWN
    elif tab == "source":
        context["source"] = source[:MAX_SHOWN].decode("utf-8", "replace")
        context["is_cut"] = len(source) > MAX_SHOWN
    elif tab == "html":
        context["sandbox"] = framing.SANDBOX
    return render(request, "inbox/message.html", context)


@require_safe
def html_part(request: HttpRequest, message_id: str) -> HttpResponse:
    """Return the HTML of the mail for the frame. Its policy also protects a tab that opens it directly."""
    _, reading = _opened(request, message_id)
    if reading.html is None:
        raise Http404
    parts_url = request.build_absolute_uri(f"{reverse('message', args=[message_id])}parts/")
    response = HttpResponse(framing.framed(reading.html, reading.parts, parts_url))
    response.headers["Content-Security-Policy"] = framing.policy(parts_url)
    return response


@require_safe
def source(request: HttpRequest, message_id: str) -> HttpResponse:
    """Return the bytes as they were received."""
    return HttpResponse(_opened(request, message_id)[0], content_type=PLAIN)


@require_safe
def part(request: HttpRequest, message_id: str, number: int) -> HttpResponse:
    """Return an attachment as a download. Pictures keep their type, so that the HTML can show them."""
    _, reading = _opened(request, message_id)
    found = next((part for part in reading.parts if part.number == number), None)
    if found is None:
        raise Http404
    response = HttpResponse(found.content, content_type=found.content_type if found.is_image else NO_TYPE)
    response.headers["Content-Disposition"] = content_disposition_header(True, found.filename) or "attachment"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"  # an SVG can hold a script
    return response


@require_POST
def delete(request: HttpRequest, message_id: str) -> HttpResponse:
    """Delete one message."""
    try:
        listing_of(request).store.remove(message_id)
    except Missing as error:
        raise Http404 from error
    return redirect("list")


@require_POST
def delete_all(request: HttpRequest) -> HttpResponse:
    """Delete all messages."""
    listing_of(request).store.clear()
    return redirect("list")


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer while the process lives."""
    return HttpResponse("ok\n", content_type=PLAIN)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Name the hosts that are allowed: a wrong Host header is the usual reason."""
    text = "Bad request. The inbox answers only as localhost, 127.0.0.1 and [::1].\n"
    return HttpResponse(text, status=400, content_type=PLAIN)


def forbidden(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Refuse a form that is not from a page of the inbox."""
    return HttpResponse(f"Forbidden. {reason}\n", status=403, content_type=PLAIN)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Explain that the message may have been deleted, for example in another tab."""
    return render(request, "inbox/not_found.html", status=404)


def _opened(request: HttpRequest, message_id: str) -> tuple[bytes, Reading]:
    try:
        content = listing_of(request).store.source(message_id)
    except Missing as error:
        raise Http404 from error
    return content, read(content)


def _tab(wanted: str, reading: Reading) -> str:
    if wanted in TABS:
        return wanted
    return "html" if reading.html is not None else "text"
