"""Admin pages that show rows but cannot edit them."""

from typing import Any

from django.http import HttpRequest

DECIDE = "mailer.change_message"
"""The permission to press buttons: to decide what happens to messages and transports. No form is editable with it."""


class ReadOnly:
    """Forbid adding, changing and deleting rows by hand: only the state machine may. Actions need a permission."""

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Called by Django for actions with this permission."""
        return request.user.has_perm(DECIDE)

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
