"""Configure Celery for the mailer. The project's celery.py makes one call:

app = Celery("shop")
configure(app)
"""

import sys
import threading
import time
from typing import Any

from celery import Celery, bootsteps, current_app
from celery.signals import (
    beat_embedded_init,
    beat_init,
    celeryd_after_setup,
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
)
from django.conf import settings
from django.db import close_old_connections, connections

from mailer import malformed, restricted

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

REPEATED = ("mailer.tasks.deliver_message", "mailer.tasks.deliver_due")
"""Tasks that find their work again after the database was away."""
CHECK_EVERY = 2.0
"""Seconds between two checks of a database connection that tasks use."""
PAUSE = 15.0
"""Seconds without Celery's heartbeats after one that the broker did not take at once."""


def configure(app: Celery) -> None:
    """Configure a Celery app by the project's CELERY_… settings, the mailer's defaults, and its periodic tasks.

    Use it instead of `app.config_from_object("django.conf:settings", namespace="CELERY")`, which makes Flower and
    `celery inspect conf` show every setting of the project, passwords included.
    """
    malformed.install()
    app.add_defaults(_configuration)
    app.autodiscover_tasks()
    for signal in task_prerun, task_postrun:
        signal.connect(_drop_failed_connections)
    for signal in beat_init, beat_embedded_init:
        signal.connect(_start_heartbeat_of_beat)
    worker_init.connect(_check_settings)
    worker_init.connect(_bound_heartbeats)
    celeryd_after_setup.connect(_require_permissions)
    worker_process_init.connect(_start_housekeeping)
    worker_process_shutdown.connect(_stop_housekeeping)
    worker_shutdown.connect(_stop_housekeeping)
    app.steps["worker"].add(_PoolStarted)


class _PoolStarted(bootsteps.StartStopStep):
    """Start the housekeeping of a pool without processes of its own, such as threads. It needs no broker."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        if "prefork" not in type(parent.pool).__module__:
            _start_housekeeping()


def _drop_failed_connections(sender: Any, **_: Any) -> None:
    """Do what Django does around a request.

    Around a task that delivers mail, a connection that was checked a moment ago is not asked again: such a task is repeated if
    the database was restarted meanwhile. A task of the project may not be.
    """
    began = time.monotonic()
    is_repeated = sender.name in REPEATED and not any(each.errors_occurred for each in connections.all(True))
    if not is_repeated or began - getattr(_checks, "last", -CHECK_EVERY) >= CHECK_EVERY:
        close_old_connections()
        _checks.last = began


_checks = threading.local()


def _start_housekeeping(**_: Any) -> None:
    from mailer.delivery.housekeeping import housekeeping  # the models are loaded by now
    from mailer.models import Queue

    housekeeping.start([queue for queue in Queue if queue in current_app.amqp.queues.consume_from])


def _start_heartbeat_of_beat(**_: Any) -> None:
    from mailer.delivery.heartbeat import Heartbeat, keep_beating
    from mailer.models import Role

    keep_beating(Heartbeat(Role.BEAT))


def _stop_housekeeping(**_: Any) -> None:
    from mailer.delivery.housekeeping import housekeeping

    housekeeping.stop()


def _configuration() -> dict[str, Any]:
    own = {n.removeprefix("CELERY_").lower(): getattr(settings, n) for n in dir(settings) if n.startswith("CELERY_")}
    periodic: dict[str, Any] = {
        "purge": {"task": "mailer.tasks.purge", "schedule": 3600.0, "options": {"queue": "bulk", "expires": 3600.0}},
    }
    if getattr(settings, "POSTCOMMIT", {}).get("BOUNCE_MAILBOX"):
        task, options = "mailer.tasks.read_bounces", {"queue": "bulk", "expires": 60.0}
        periodic["read_bounces"] = {"task": task, "schedule": 60.0, "options": options}
    merged = {
        "broker_transport_options": BROKER_TRANSPORT_OPTIONS | own.get("broker_transport_options", {}),
        "beat_schedule": periodic | own.get("beat_schedule", {}),
    }
    return DEFAULTS | own | merged


def _bound_heartbeats(**_: Any) -> None:
    """Have Celery send its heartbeats, which Flower waits for, without stopping its main loop for long.

    It would repeat each one until the broker takes it, and meanwhile the worker could not be stopped. Now a heartbeat to a
    broker that does not answer takes 5 s (`socket_timeout`), and none follows for PAUSE seconds. A stopping worker sends none.
    """
    from celery.worker import state
    from celery.worker.heartbeat import Heart

    send = Heart._send  # type: ignore[attr-defined]
    after = 0.0

    def send_once(heart: Heart, event: str, retry: bool = False) -> None:
        nonlocal after
        began = time.monotonic()
        if state.should_stop is None and began >= after:
            send(heart, event, retry=False)
            after = time.monotonic() + PAUSE if time.monotonic() - began > 1 else 0.0

    Heart._send = send_once  # type: ignore[attr-defined]


def _require_permissions(conf: Any, **_: Any) -> None:
    """Have the worker connect only if Redis permits it to work; until then it waits, as for a broker that is away."""
    queues = [*current_app.amqp.queues.consume_from]
    conf.broker_transport_options = {**conf.broker_transport_options, restricted.CONSUMES_FROM: queues}


def _check_settings(**_: Any) -> None:
    """Stop a worker whose settings cannot work."""
    from django.core.management import CommandError, call_command

    try:
        call_command("check", tags=["postcommit"])
    except CommandError as error:
        sys.exit(str(error))
