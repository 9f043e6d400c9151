"""The admin site: staff need their second factor, and a list accepts only the filters that it shows.

Django's `ModelAdmin.lookup_allowed` lets every column of the model's own table pass, and the primary key across a relation. A
session's key is such a primary key, and `?secret__startswith=a` would reveal a secret one character at a time.
"""

from collections.abc import Callable
from http import HTTPStatus
from importlib import import_module
from typing import Any

from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.module_loading import import_string
from django.views.decorators.http import require_http_methods

COMPARISONS = {"exact", "in", "isnull", "isempty", "gt", "gte", "lt", "lte", "year", "month", "day"}
"""Lookups that may follow a filter's name in the URL. None of them finds a value by its beginning."""

SECOND_FACTOR = "accounts.second_factor.has_passed"
"""Tells whether the session of a request passed it, if it needs one."""
REMEMBER_BROWSER = "accounts.devices.remember"
"""Makes a browser known to an account, so that the wrong passwords of strangers do not lock its owner out."""


class ListedLookups:
    """Mixin for every ModelAdmin: refuse lookups that no filter of the list needs."""

    list_filter: Any
    date_hierarchy: Any

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        filters = {
            entry[0] if isinstance(entry, list | tuple) else getattr(entry, "parameter_name", entry)
            for entry in self.list_filter
        }
        return any(
            lookup == name
            or (lookup.startswith(f"{name}__") and set(lookup[len(name) + 2 :].split("__")) <= COMPARISONS)
            for name in {*filters, self.date_hierarchy}
            if isinstance(name, str)
        )


class Site(AdminSite):
    """Django's admin behind the second factor, with ListedLookups in every page, those of other applications included."""

    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and bool(import_string(SECOND_FACTOR)(request))

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Lead staff whose password was right to their second factor. Every page of the admin redirects others to here."""
        if request.method == "GET" and super().has_permission(request) and not self.has_permission(request):
            then = request.GET.get("next", reverse("admin:index"))
            return redirect(f"{reverse('second_factor_ask')}?{urlencode({'next': then})}")
        response = super().login(request, extra_context)
        # Only after a log-in: the page may be asked with a session and without its password.
        if request.method == "POST" and response.status_code == HTTPStatus.FOUND and request.user.is_authenticated:
            import_string(REMEMBER_BROWSER)(response, request.user.email)
        return response

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        base = admin_class or ModelAdmin
        guarded = type(base.__name__, (ListedLookups, base), {"__module__": base.__module__, "__doc__": base.__doc__})
        super().register(model_or_iterable, guarded, **options)

    def admin_view[View: Callable[..., HttpResponseBase]](self, view: View, cacheable: bool = False) -> View:
        """Refuse PUT and its like, which Django's pages answer like GET. Let staff log out without their second factor."""
        if view == self.logout:
            return view
        return require_http_methods(["GET", "HEAD", "POST"])(super().admin_view(view, cacheable))


class AdminConfig(DjangoAdminConfig):
    default_site = "config.admin.Site"

    def ready(self) -> None:
        super().ready()
        import_module("config.checks")  # registers them
