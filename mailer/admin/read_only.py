"""Rows that people may look at and not edit."""

from typing import Any

from django.http import HttpRequest


class ReadOnly:
    """The state machine owns these rows: nobody adds, edits or deletes one by hand."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
