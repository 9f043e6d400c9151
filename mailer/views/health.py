"""Liveness and readiness probes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from celery import current_app
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse
from kombu.exceptions import OperationalError

from mailer.delivery import explain
from mailer.delivery.broker import SHORT_TIMEOUTS
from mailer.models import Message

LOOKED_AT = 2000
"""Messages whose waiting is explained at most, so that a backlog makes the probe no slower. `mail_status` looks at all."""
GRACE = timedelta(seconds=30)
"""Younger messages are not reported: a deployment replaces all workers within this time."""


def alive(request: HttpRequest) -> HttpResponse:
    """Answer 200 while the process serves requests."""
    return HttpResponse("ok\n", content_type="text/plain")


def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 if the database answers. Also report the broker, the workers, and what waits.

    `workers` is the number of living worker processes. `waiting` counts the messages that wait for a person, by the sentence
    why. A web process stays in service without a broker or a worker, because a request loses no mail: it is stored in the
    database.
    """
    try:
        found = _look()
    except (DatabaseError, InterfaceError):
        found = None
    nothing: Mapping[str, Any] = {"oldest_due_seconds": None, "workers": None, "waiting": {}}
    status = {"database": found is not None, "broker": _broker_answers(), **(found or nothing)}
    return JsonResponse(status, status=200 if found else 503)


def _look() -> Mapping[str, Any]:
    situation = explain.look()
    late = list(Message.objects.late(GRACE).order_by().values_list("pk", flat=True)[:LOOKED_AT])
    return {
        "oldest_due_seconds": Message.objects.age_of_oldest_due(),
        "workers": len(situation.workers),
        "waiting": explain.stuck(situation, Message.objects.filter(pk__in=late)),
    }


def _broker_answers() -> bool:
    try:
        with current_app.connection_for_write(transport_options=SHORT_TIMEOUTS) as connection:
            connection.ensure_connection(max_retries=0)
    except (OperationalError, OSError):
        return False
    return True
