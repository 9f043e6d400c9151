"""Users as Django's admin knows them, with an address instead of a user name, and their verifications, read-only."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.http import HttpRequest

from accounts.models import EmailVerification, User

POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")


class CreateUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email",)


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    add_form = CreateUserForm
    ordering = ("-date_joined",)
    list_display = ("email", "name", "is_verified", "is_staff", "is_active", "date_joined")
    list_filter = ("is_staff", "is_active", ("email_verified_at", admin.EmptyFieldListFilter), "language")
    search_fields = ("email", "name")
    readonly_fields = ("email_verified_at", "date_joined", "last_login")
    fieldsets = [
        (None, {"fields": ["email", "password"]}),
        ("Person", {"fields": ["name", "language", "email_verified_at", "date_joined", "last_login"]}),
        ("Permissions", {"fields": ["is_active", "is_staff", "is_superuser", "groups", "user_permissions"]}),
    ]
    add_fieldsets = [(None, {"fields": ["email", "usable_password", "password1", "password2"]})]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody but an administrator changes an administrator: a new password would be enough to become one."""
        allowed = super().has_change_permission(request, obj)
        return allowed and (request.user.is_superuser or not (obj and obj.is_superuser))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Only an administrator hands out power, to herself or to others."""
        fields = super().get_readonly_fields(request, obj)
        return fields if request.user.is_superuser else (*fields, *POWERS)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if "email" in form.changed_data:
            obj.email_verified_at = None  # nobody has proved the new one
        super().save_model(request, obj, form, change)

    @admin.display(description="verified", boolean=True, ordering="email_verified_at")
    def is_verified(self, user: User) -> bool:
        return user.is_verified


@admin.register(EmailVerification)
class EmailVerificationAdmin(admin.ModelAdmin):
    """Read-only: the code in the link is derived from these rows."""

    list_display = ("id", "address", "created_at", "expires_at", "used_at", "superseded_at")
    list_filter = ("created_at", ("used_at", admin.EmptyFieldListFilter))
    search_fields = ("address__exact", "id__exact")
    fields = ("id", "user", "address", "created_at", "expires_at", "used_at", "superseded_at")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
