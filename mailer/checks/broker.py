"""Ask the broker what its user may do: `manage.py check --deploy`."""

from collections.abc import Iterator, Sequence
from typing import Any

from celery import current_app
from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from kombu.exceptions import OperationalError

from mailer import permissions
from mailer.models import Queue

PATIENCE = {"socket_timeout": 2, "socket_connect_timeout": 2, "max_retries": 0}
"""Seconds, as for each step of a worker's connection, and no second try."""
HINT = "docs/deploy.md has the smallest ACL that was tried."


@register("postcommit", deploy=True)
def check_broker(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Check that the user of Redis may do what workers and Flower do."""
    if current_app.conf.task_always_eager:
        return []
    connection: Any = current_app.connection_for_read(transport_options=PATIENCE)
    try:
        with connection:
            return [*_permissions(connection)]
    except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
        cause = error.__cause__ or error
        if permissions.is_refusal(cause):  # of what every connection begins with, such as PING
            return [Error(f"The user of Redis may not connect: {cause}", hint=HINT, id="mailer.E019")]
        said = f"The broker was not asked what its user may do: it does not answer ({type(cause).__name__})."
        return [CheckWarning(said, id="mailer.W009")]


def _permissions(connection: Any) -> Iterator[CheckMessage]:
    if connection.transport.driver_type != "redis":
        return
    try:
        permissions.require(connection.default_channel, Queue.values)
    except permissions.Refused as refused:
        yield Error(str(refused), hint=HINT, id="mailer.E019")
        return
    if optional := permissions.optional(connection.default_channel):
        yield CheckWarning(
            "Mail leaves, but without remote control (celery inspect), and Flower shows no worker: the ACL of the user of "
            f"Redis lacks {' '.join(optional)}",
            hint=HINT,
            id="mailer.W008",
        )
