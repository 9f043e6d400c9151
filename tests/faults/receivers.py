"""A receiver of an application that waits for a lock, which somebody else holds for long."""

from typing import Any

from django.db import connection
from django.dispatch import receiver

from mailer.signals import message_settled


@receiver(message_settled)
def wait_for_lock(**_: Any) -> None:
    """Wait for the lock, and give it back at the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(20261127)")
