"""Liveness and readiness probes."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse

from mailer.delivery import broker, explain
from mailer.delivery.pulse import Pulse, health, look
from mailer.models import Message

LOOKED_AT = 2000
"""Messages whose waiting is explained at most, so that a backlog makes the probe no slower. `mail_status` looks at all."""
GRACE = timedelta(seconds=30)
"""Younger messages are not reported: a deployment replaces all workers within this time."""

PULSE = {"sweep_seconds": "swept_at", "broker_seconds": "broker_at", "beat_seconds": "beat_at"}


def alive(request: HttpRequest) -> HttpResponse:
    """Answer 200 while the process serves requests."""
    return HttpResponse("ok\n", content_type="text/plain")


def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 if the database answers. Also report the broker, the workers, the pulse, paused transports, and what waits.

    `workers` is the number of living worker processes. `paused` says of each transport that takes no mail why and until when,
    a daily quota that is used up among them. `waiting` counts the messages that wait for a person, by the sentence
    why. A web process stays in service without a broker or a worker, because a request loses no mail: it is stored in the
    database. `broker` is what this process sees; `broker_seconds` is the age of the broker's last answer to a worker, and null
    if no row knows of one, as with the ages of the last sweep and of the last heartbeat of beat.
    """
    try:
        found = _look()
    except (DatabaseError, InterfaceError):
        found = None
    nothing: Mapping[str, Any] = {
        "oldest_due_seconds": None,
        "workers": None,
        "paused": [],
        "waiting": {},
        **dict.fromkeys(PULSE),
    }
    status = {"database": found is not None, "broker": broker.answers(), **(found or nothing)}
    return JsonResponse(status, status=200 if found else 503)


def _look() -> Mapping[str, Any]:
    pulse = look()
    for circuit in pulse.circuits:
        if not circuit.by_quota:
            circuit.reason = ""  # everybody may read this page: not what a server or a person said about the transport
    for stream in pulse.streams:
        stream.reason = ""
    late = list(Message.objects.late(GRACE).order_by().values_list("pk", flat=True)[:LOOKED_AT])
    return {
        "oldest_due_seconds": Message.objects.age_of_oldest_due(),
        "workers": len(pulse.workers),
        "paused": [line.sentence for line in health(pulse) if line.part == "Transports" and not line.is_well],
        "waiting": explain.stuck(pulse, Message.objects.filter(pk__in=late)),
        **{name: _age(pulse, getattr(pulse, moment)) for name, moment in PULSE.items()},
    }


def _age(pulse: Pulse, moment: datetime | None) -> float | None:
    age = pulse.age(moment)
    return round(age, 1) if math.isfinite(age) else None
