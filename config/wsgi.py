"""The WSGI entry point: `gunicorn config.wsgi`."""

import io
import os
from collections.abc import Callable, Iterable
from typing import Any

from django.core.exceptions import BadRequest
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

django_application = get_wsgi_application()
call_command("check", tags=["postcommit"], stdout=io.StringIO())  # stop at a broken setting, not at the first mail


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer 400 to an unknown charset: Django looks it up before its own error handling starts."""
    try:
        return django_application(environ, start_response)
    except (BadRequest, LookupError, ValueError):
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [b"The request's Content-Type cannot be read.\n"]
