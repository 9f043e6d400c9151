"""The web server of the pages: Django's threaded one, which keeps connections open and survives broken ones."""

from typing import Any

from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest
from whitenoise import WhiteNoise

from local.inbox.listing import Listing
from local.inbox.page_settings import STATIC

HOST = "127.0.0.1"
LISTING, SMTP_ADDRESS = "local.inbox.listing", "local.inbox.smtp_address"
"""Keys of the WSGI environ, which may hold any object. With them no view needs a global."""


class Quiet(WSGIRequestHandler):
    """Log no requests: their addresses can hold a search for a person."""

    disable_nagle_algorithm = True  # otherwise each answer on a kept connection takes 40 ms

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Do nothing."""


def page_server(listing: Listing, smtp_address: str, port: int) -> ThreadedWSGIServer:
    """Return a server that listens. Raises OSError if the port is not available."""
    server = ThreadedWSGIServer((HOST, port), Quiet)
    server.set_app(WhiteNoise(get_wsgi_application(), root=STATIC, prefix="static", max_age=0, allow_all_origins=False))
    server.base_environ |= {LISTING: listing, SMTP_ADDRESS: smtp_address}
    return server


def listing_of(request: HttpRequest) -> Listing:
    """Return the messages that the server of this request shows."""
    listing: Listing = request.META[LISTING]
    return listing
