"""Who pressed what: kept with the row, for the page HISTORY of Django's admin and for the timeline of a message."""

from collections.abc import Iterable
from typing import Any

from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.http import HttpRequest


def record(request: HttpRequest, rows: Iterable[Any], pressed: str) -> None:
    """Keep that this person pressed a button for these rows. Few statements, whatever their number."""
    LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, pressed)  # type: ignore[arg-type]


def record_deletion(request: HttpRequest, row: Any, pressed: str) -> None:
    """Keep that this person pressed a button that deletes this row."""
    LogEntry.objects.log_actions(request.user.pk, [row], DELETION, pressed)  # type: ignore[arg-type]
