"""Users as Django's admin knows them, with an address instead of a user name; their links and sessions, read-only."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from accounts import email_change
from accounts.forms import StaffLogInForm
from accounts.models import EmailChange, EmailVerification, User
from accounts.sessions import Session, end_sessions

admin.site.login_form = StaffLogInForm

OWNED = (EmailVerification, EmailChange, Session)
POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")


class CreateUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email",)


class ChangePasswordForm(AdminPasswordChangeForm):
    """Whoever was in there with the old password is out. Django gives an administrator who changes her own a new session."""

    def save(self, commit: bool = True) -> User:
        with transaction.atomic():
            user: User = super().save(commit)
            end_sessions(user)
            email_change.stop_all(user)
        return user


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    add_form = CreateUserForm
    change_password_form = ChangePasswordForm
    ordering = ("-date_joined",)
    list_display = ("email", "name", "is_verified", "is_staff", "is_active", "date_joined")
    list_filter = ("is_staff", "is_active", ("email_verified_at", admin.EmptyFieldListFilter), "language")
    search_fields = ("email", "name")
    readonly_fields = ("email_verified_at", "date_joined", "last_login")
    fieldsets = [
        (None, {"fields": ["email", "password"]}),
        ("Person", {"fields": ["name", "language", "time_zone", "email_verified_at", "date_joined", "last_login"]}),
        ("Permissions", {"fields": ["is_active", "is_staff", "is_superuser", "groups", "user_permissions"]}),
    ]
    add_fieldsets = [(None, {"fields": ["email", "usable_password", "password1", "password2"]})]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody but an administrator changes an administrator: a new password would be enough to become one."""
        return super().has_change_permission(request, obj) and self._is_below(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and self._is_below(request, obj)

    def _is_below(self, request: HttpRequest, obj: User | None) -> bool:
        """Staff may have more power than she who changes them; so only an administrator, or they themselves, may."""
        mine = request.user.is_superuser or obj is None or obj == request.user
        return bool(mine or not (obj and (obj.is_staff or obj.is_superuser)))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """What hangs on an account goes with it, though nobody may delete it by itself."""
        rows, counts, forbidden, protected = super().get_deleted_objects(objs, request)
        return rows, counts, forbidden - {str(model._meta.verbose_name) for model in OWNED}, protected

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Only an administrator hands out power, to herself or to others."""
        fields = super().get_readonly_fields(request, obj)
        return fields if request.user.is_superuser else (*fields, *POWERS)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if change and "email" in form.changed_data:
            obj.was_verified |= obj.is_verified
            obj.email_verified_at = None  # nobody has proved the new one
            end_sessions(obj, but=request.session.session_key)
            # Those as well that could be taken back: what an administrator decided, an older mail must not undo.
            obj.email_changes.filter(stopped_at=None).update(stopped_at=timezone.now())
        if not change:
            super().save_model(request, obj, form, change)
            return
        # Only what was changed: a whole row would undo what its owner did since the page was opened, such as a reset.
        own = {field.name for field in obj._meta.concrete_fields}
        marks = {"email_verified_at", "was_verified"} if "email" in form.changed_data else set()
        obj.save(update_fields=own & set(form.changed_data) | marks)

    @admin.display(description="verified", boolean=True, ordering="email_verified_at")
    def is_verified(self, user: User) -> bool:
        return user.is_verified


class ReadOnlyAdmin(admin.ModelAdmin):
    """For looking at rows that the application alone writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(EmailVerification)
class EmailVerificationAdmin(ReadOnlyAdmin):
    """Read-only: the code in the link is derived from these rows."""

    list_display = ("id", "address", "created_at", "expires_at", "used_at", "superseded_at")
    list_filter = ("created_at", ("used_at", admin.EmptyFieldListFilter))
    search_fields = ("address__exact", "id__exact")
    fields = ("id", "user", "address", "created_at", "expires_at", "used_at", "superseded_at")
    readonly_fields = fields


@admin.register(EmailChange)
class EmailChangeAdmin(ReadOnlyAdmin):
    """Read-only, as above."""

    list_display = ("id", "old_address", "new_address", "created_at", "expires_at", "confirmed_at", "stopped_at")
    list_filter = (
        "created_at",
        ("confirmed_at", admin.EmptyFieldListFilter),
        ("stopped_at", admin.EmptyFieldListFilter),
    )
    search_fields = ("old_address__exact", "new_address__exact", "id__exact")
    fields = ("id", "user", "old_address", "new_address", "created_at", "expires_at", "confirmed_at", "stopped_at")
    readonly_fields = fields


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """A list and no page of a session: its key, which is the primary key, would let whoever reads it in."""

    list_display = ("user", "browser", "network", "logged_in_at", "expire_date")
    list_display_links = None
    list_filter = ("logged_in_at",)
    list_select_related = ("user",)
    search_fields = ("user__email__exact",)
    ordering = ("-logged_in_at",)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).exclude(user=None)

    # Django would filter by any field, and so tell a session's key, one character at a time.
    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup.partition("__")[0] == "logged_in_at"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_view_permission(request)
