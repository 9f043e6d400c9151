"""The server of the pages: Django's threaded one, which keeps connections open and survives broken ones."""

from dataclasses import dataclass
from typing import Any

from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest
from whitenoise import WhiteNoise

from local.inbox.listing import Listing
from local.inbox.page_settings import STATIC

ENVIRON_KEY = "local.inbox"


@dataclass(frozen=True, slots=True)
class Served:
    """What the pages are about. It comes with each request instead of standing in a global."""

    listing: Listing
    smtp_address: str


class Quiet(WSGIRequestHandler):
    """Logs no requests: the address of one can hold a search for a person."""

    disable_nagle_algorithm = True  # else each answer on a kept connection takes 40 ms: header and body go one by one

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Say nothing."""


def page_server(served: Served, host: str, port: int) -> ThreadedWSGIServer:
    """A server that is bound and listens. Raises OSError when the port cannot be had."""
    server = ThreadedWSGIServer((host, port), Quiet, ipv6=":" in host)
    server.set_app(WhiteNoise(get_wsgi_application(), root=STATIC, prefix="static", max_age=0, allow_all_origins=False))
    server.base_environ[ENVIRON_KEY] = served  # an environ may carry any object
    return server


def served_with(request: HttpRequest) -> Served:
    """What the server of this request serves."""
    served: Served = request.META[ENVIRON_KEY]
    return served


def listing_of(request: HttpRequest) -> Listing:
    """The messages that the server of this request serves."""
    return served_with(request).listing
