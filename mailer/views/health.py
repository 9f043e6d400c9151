"""Liveness and readiness probes."""

from celery import current_app
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse
from kombu.exceptions import OperationalError

from mailer.delivery.broker import SHORT_TIMEOUTS
from mailer.models import Message


def alive(request: HttpRequest) -> HttpResponse:
    """Answer 200 while the process serves requests."""
    return HttpResponse("ok\n", content_type="text/plain")


def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 if the database answers. Also report the broker and the age in seconds of the oldest due message.

    A web process stays in service without a broker, because a request loses no mail: it is stored in the database.
    """
    try:
        age = Message.objects.age_of_oldest_due()
    except (DatabaseError, InterfaceError):
        age = None
    status = {"database": age is not None, "broker": _broker_answers(), "oldest_due_seconds": age}
    return JsonResponse(status, status=200 if status["database"] else 503)


def _broker_answers() -> bool:
    try:
        with current_app.connection_for_write(transport_options=SHORT_TIMEOUTS) as connection:
            connection.ensure_connection(max_retries=0)
    except (OperationalError, OSError):
        return False
    return True
