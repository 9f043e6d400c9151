"""Users in the admin, with an address instead of a user name; their links and sessions, read-only."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from accounts import email_change
from accounts.emails import PasswordChanged
from accounts.forms import StaffLogInForm
from accounts.models import EmailChange, EmailVerification, User
from accounts.sessions import Session, end_sessions
from mailer import outbox

admin.site.login_form = StaffLogInForm
admin.site.unregister([TOTPDevice, StaticDevice])  # their pages show keys and codes

OWNED = (EmailVerification, EmailChange, Session)
POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")


class CreateUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email",)


class ChangePasswordForm(AdminPasswordChangeForm):
    """End the user's sessions too."""

    def save(self, commit: bool = True) -> User:
        with transaction.atomic():
            user: User = super().save(commit)
            end_sessions(user)
            email_change.stop_all(user)
            outbox.enqueue(PasswordChanged(user))
        return user


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    add_form = CreateUserForm
    change_password_form = ChangePasswordForm
    ordering = ("-date_joined",)
    list_display = ("email", "name", "has_verified_email", "is_staff", "is_active", "date_joined")
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
        """Only a superuser changes staff: with a new password, other staff could take over the account."""
        return super().has_change_permission(request, obj) and self._may_edit(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and self._may_edit(request, obj)

    def _may_edit(self, request: HttpRequest, obj: User | None) -> bool:
        """Whether the request's user may edit `obj`: as a superuser, as the same user, or because `obj` is not staff."""
        may_edit_all = request.user.is_superuser or obj is None or obj == request.user
        return bool(may_edit_all or not (obj and (obj.is_staff or obj.is_superuser)))

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        """Lead administrators to the site's page for their own: it asks for the old password and notifies them by mail."""
        if self.get_object(request, unquote(id)) == request.user:
            return redirect("password_change")
        return super().user_change_password(request, id, form_url)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Allow deleting an account with its links and sessions, although these cannot be deleted on their own."""
        rows, counts, forbidden, protected = super().get_deleted_objects(objs, request)
        return rows, counts, forbidden - {str(model._meta.verbose_name) for model in OWNED}, protected

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Only a superuser grants permissions, even to themselves. One's own address is changed on the site's page."""
        fields = super().get_readonly_fields(request, obj)
        if obj == request.user:
            fields = (*fields, "email")
        return fields if request.user.is_superuser else (*fields, *POWERS)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if change and not (obj.is_active and obj.is_staff) and {"is_active", "is_staff"} & set(form.changed_data):
            end_sessions(obj)  # they would work again when it is switched on again
        if change and "email" in form.changed_data:
            obj.was_verified |= obj.has_verified_email
            obj.email_verified_at = None  # the new address is not verified
            end_sessions(obj)
            # Confirmed changes too: a link in an older mail must not undo what an administrator decided.
            obj.email_changes.filter(stopped_at=None).update(stopped_at=timezone.now())
        if not change:
            super().save_model(request, obj, form, change)
            return
        # Only the changed fields: saving the whole row would revert what the user did meanwhile, such as a reset.
        own = {field.name for field in obj._meta.concrete_fields}
        marks = {"email_verified_at", "was_verified"} if "email" in form.changed_data else set()
        obj.save(update_fields=own & set(form.changed_data) | marks)

    @admin.display(description="verified", boolean=True, ordering="email_verified_at")
    def has_verified_email(self, user: User) -> bool:
        return user.has_verified_email


class ReadOnlyAdmin(admin.ModelAdmin):
    """Show rows that only the application writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(EmailVerification)
class EmailVerificationAdmin(ReadOnlyAdmin):
    """Read-only: the code in a link is derived from its row."""

    list_display = ("id", "address", "created_at", "expires_at", "used_at", "superseded_at")
    list_filter = ("created_at", ("used_at", admin.EmptyFieldListFilter))
    search_fields = ("address__exact", "id__exact")


@admin.register(EmailChange)
class EmailChangeAdmin(ReadOnlyAdmin):
    """Read-only: the codes in its links are derived from its row."""

    list_display = ("id", "old_address", "new_address", "created_at", "expires_at", "confirmed_at", "stopped_at")
    list_filter = (
        "created_at",
        ("confirmed_at", admin.EmptyFieldListFilter),
        ("stopped_at", admin.EmptyFieldListFilter),
    )
    search_fields = ("old_address__exact", "new_address__exact", "id__exact")


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """A list without detail pages: a session's key is its primary key, and with the key anyone could use the session."""

    list_display = ("user", "browser", "network", "logged_in_at", "expire_date")
    list_display_links = None
    list_filter = ("logged_in_at",)
    list_select_related = ("user",)
    search_fields = ("user__email__exact",)
    ordering = ("-logged_in_at",)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).exclude(user=None)

    # Without this, filters in the URL could reveal a session's key character by character.
    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return lookup.partition("__")[0] == "logged_in_at"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_view_permission(request)


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin):
    """Only a superuser edits groups: with `change_group` alone, staff could give their own group every permission."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.is_superuser
