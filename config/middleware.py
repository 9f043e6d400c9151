"""The middleware of this site: an access log without addresses, answers that are not stored, clear words for errors."""

import time
from collections.abc import Callable
from http import HTTPStatus

import structlog
from django.core.exceptions import BadRequest
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.utils.deprecation import MiddlewareMixin

log = structlog.get_logger("access")
PROBES = {"healthz", "readyz", "metrics", "accounts/staff/"}
"""Routes that are not logged: the last one is asked for each request of Flower."""


class AccessLogMiddleware:
    """Log one line per request with its route. A path may hold a code or an address; a route holds neither."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        started = time.monotonic()
        response = self.get_response(request)
        match = request.resolver_match
        route = match.route if match else "(no route)"
        if route not in PROBES:
            ms = round((time.monotonic() - started) * 1000)
            log.info("request", method=request.method, route=route, status=response.status_code, ms=ms)
        return response


class NoStoreMiddleware(MiddlewareMixin):
    """Forbid browsers and proxies to store an answer, errors included. A view that sets Cache-Control decides by itself."""

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if not response.has_header("Cache-Control"):
            add_never_cache_headers(response)
        return response


class DatabaseAwayMiddleware(MiddlewareMixin):
    """Say in words that the database does not answer, instead of a server error. What was asked for was not done."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, OperationalError | InterfaceError):
            return None
        log.error("the database does not answer", error=type(exception).__name__)
        # Without a context processor: these ask for the user, who is in the database.
        page = render_to_string("503.html", {"is_admin": request.path.startswith(reverse("admin:index"))})
        return HttpResponse(page, status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "10"})


class NulMiddleware(MiddlewareMixin):
    """Refuse NUL characters in addresses and cookies, which PostgreSQL cannot store. Form fields refuse them already."""

    def process_request(self, request: HttpRequest) -> None:
        values = (request.path, *request.COOKIES.values(), *(v for values in request.GET.lists() for v in values[1]))
        if any("\0" in value for value in values):
            raise BadRequest("a NUL character")
