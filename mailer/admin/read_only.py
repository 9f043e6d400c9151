"""Admin pages that show rows but cannot edit them."""

from typing import Any

from django.http import HttpRequest


class ReadOnly:
    """Forbid to add, change or delete rows by hand: only the state machine may."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
