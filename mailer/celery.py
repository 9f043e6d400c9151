"""Configure Celery for the mailer. The project's celery.py makes one call:

app = Celery("shop")
configure(app)
"""

import sys
from typing import Any

from celery import Celery
from celery.signals import task_postrun, task_prerun, worker_init
from django.conf import settings
from django.db import close_old_connections

from mailer import malformed
from mailer.conf import options

BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 300,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "queue_order_strategy": "priority",  # in the order of `-Q critical,default,bulk`
}
"""With these a half-open connection recovers in about 20 s; with Celery's own defaults it hangs."""

DEFAULTS = {
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "task_default_queue": "default",
    "worker_prefetch_multiplier": 1,
    "CELERY_DB_REUSE_MAX": sys.maxsize,  # Celery would open a connection for each task; see configure()
}


def configure(app: Celery) -> None:
    """Configure a Celery app by the project's CELERY_… settings, the mailer's defaults, and its periodic tasks.

    Use it instead of `app.config_from_object("django.conf:settings", namespace="CELERY")`, which makes Flower and
    `celery inspect conf` show every setting of the project, passwords included.
    """
    malformed.install()
    app.add_defaults(_configuration)
    app.autodiscover_tasks()
    for signal in task_prerun, task_postrun:  # as Django does around a request: drop failed and old connections only
        signal.connect(close_old_connections)
    worker_init.connect(_check_settings)


def _configuration() -> dict[str, Any]:
    own = {n.removeprefix("CELERY_").lower(): getattr(settings, n) for n in dir(settings) if n.startswith("CELERY_")}
    every = options().sweep_every.total_seconds()
    periodic = {
        "sweep": {
            "task": "mailer.tasks.sweep",
            "schedule": every,
            # The next sweep does the work of a late one. The clocks of beat and worker may differ, hence at least a minute.
            "options": {"queue": "critical", "priority": 0, "expires": max(12 * every, 60.0)},
        },
        "purge": {"task": "mailer.tasks.purge", "schedule": 3600.0, "options": {"queue": "bulk", "expires": 3600.0}},
    }
    merged = {
        "broker_transport_options": BROKER_TRANSPORT_OPTIONS | own.get("broker_transport_options", {}),
        "beat_schedule": periodic | own.get("beat_schedule", {}),
    }
    return DEFAULTS | own | merged


def _check_settings(**_: Any) -> None:
    """Stop a worker whose settings cannot work."""
    from django.core.management import CommandError, call_command

    try:
        call_command("check", tags=["postcommit"])
    except CommandError as error:
        sys.exit(str(error))
