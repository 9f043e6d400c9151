"""One line a request, with the route instead of the path: a route holds no code and no address."""

import time
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponse

log = structlog.get_logger("access")
PROBES = {"healthz", "readyz"}


class AccessLogMiddleware:
    """Logs method, route, status and milliseconds of everything but static files and probes."""

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
