"""Requests that no browser sends, and that Django answers with an error of its own: they get a plain 400."""

from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class NulMiddleware:
    """Refuses NUL characters outside of a form, where fields refuse them: PostgreSQL would, with an error."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        values = (request.path, *request.COOKIES.values(), *(v for values in request.GET.lists() for v in values[1]))
        if any("\0" in value for value in values):
            raise BadRequest("a NUL character")
        return self.get_response(request)


def refuse_unknown_charsets(application: WSGIApplication) -> WSGIApplication:
    """Django looks a request's charset up before its own error handling begins, so an odd one would be a server error."""

    def refuse_or_answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            return application(environ, start_response)
        except (BadRequest, LookupError, ValueError):
            start_response("400 Bad Request", [("Content-Type", "text/plain")])
            return [b"The request's Content-Type cannot be read.\n"]

    return refuse_or_answer
