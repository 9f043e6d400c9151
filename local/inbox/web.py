"""The web server of the pages: Django's threaded one, with no database, no secret and nothing of the project."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from whitenoise import WhiteNoise

from local.inbox.listing import Listing

HERE = Path(__file__).parent
HOST = "127.0.0.1"

# Nothing inline and nothing from other sites: a mail that escaped from its frame could still run no script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Quiet(WSGIRequestHandler):
    """Log no requests: their addresses can hold a search for a person."""

    disable_nagle_algorithm = True  # otherwise each answer on a kept connection takes 40 ms

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Do nothing."""


def page_server(listing: Listing, smtp_address: str, port: int) -> ThreadedWSGIServer:
    """Return a server that listens. Raises OSError if the port is not available."""
    settings.configure(
        SECRET_KEY=secrets.token_urlsafe(),  # required by Django; signs nothing here
        # With any other Host header a web site could point its own name at this machine (DNS rebinding) and read the
        # mail through the browser.
        ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]"],
        ROOT_URLCONF="local.inbox.views",
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "local.inbox.web.guard",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [HERE / "templates"]}],
        STATIC_URL="/static/",
        # Browsers share cookies between the ports of a host: this cookie must not replace the site's.
        CSRF_COOKIE_NAME="inbox_csrftoken",
        CSRF_COOKIE_HTTPONLY=True,
        CSRF_COOKIE_SAMESITE="Strict",
        USE_I18N=False,
        USE_TZ=False,  # times are shown in the time zone of this machine
        LOGGING_CONFIG=None,
    )
    django.setup()
    server = ThreadedWSGIServer((HOST, port), Quiet)
    pages = get_wsgi_application()
    server.set_app(WhiteNoise(pages, root=HERE / "static", prefix="static", max_age=0, allow_all_origins=False))
    # The WSGI environ may hold any object. With it no view needs a global.
    server.base_environ |= {"inbox.listing": listing, "inbox.smtp_address": smtp_address}
    return server


def guard(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Add the policy to each page, and refuse changes by pages of other sites.

    Browsers name the page behind such a request in at least one of two headers. Scripts send neither.
    """

    def answer(request: HttpRequest) -> HttpResponse:
        own = f"{request.scheme}://{request.get_host()}"
        is_foreign = request.headers.get("Origin", own) != own
        is_foreign |= request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        if is_foreign and request.method not in ("GET", "HEAD"):
            return JsonResponse({"error": "A page of another site may not change the inbox."}, status=403)
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return answer
