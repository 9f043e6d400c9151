"""Admin pages that show rows but cannot edit them."""

from typing import Any

from django.http import HttpRequest


class ReadOnly:
    """Forbid adding, changing and deleting rows by hand: only the state machine may. Actions need a permission."""

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Allow actions to users who may change messages, although no form is editable."""
        return request.user.has_perm("mailer.change_message")

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
