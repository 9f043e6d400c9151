"""For probes: whether this process lives, and whether it can do its work."""

from celery import current_app
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from kombu.exceptions import OperationalError

from mailer.delivery.broker import SHORT_TIMEOUTS
from mailer.models import Message


def alive(request: HttpRequest) -> HttpResponse:
    """200 as long as requests are answered at all."""
    return HttpResponse("ok\n", content_type="text/plain")


def ready(request: HttpRequest) -> JsonResponse:
    """200 if the database answers; also says whether the broker does, and the age in seconds of the oldest due message.

    A broker that is away is no reason to take a web process out of service: the request that it would serve loses nothing.
    """
    age = _age_of_oldest_due()
    status = {"database": age is not None, "broker": _broker_answers(), "oldest_due_seconds": age}
    return JsonResponse(status, status=200 if status["database"] else 503)


def _age_of_oldest_due() -> float | None:
    try:
        return Message.objects.age_of_oldest_due(timezone.now())
    except (DatabaseError, InterfaceError):
        return None


def _broker_answers() -> bool:
    try:
        with current_app.connection_for_write(transport_options=SHORT_TIMEOUTS) as connection:
            connection.ensure_connection(max_retries=0)
    except (OperationalError, OSError):
        return False
    return True
