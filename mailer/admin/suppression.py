"""Addresses that get no mail at all, or no mail of one stream."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.timesince import timesince

from mailer.admin.button import Button, page_to_return_to
from mailer.admin.history import record_deletion
from mailer.models import Cause, Suppression
from mailer.recipients.suppression import rows_of

LIFT = "Allow mail again"
"""The name of the button that deletes the row of an address."""


@admin.register(Suppression)
class SuppressionAdmin(admin.ModelAdmin):
    """Delete a row, with a note why, to write to its address again. One with a stream stops the mail of that stream only."""

    list_display = ("address", "stream", "cause", "source", "reason", "since")
    list_filter = ("cause", "stream")
    search_fields = ("address__exact",)
    search_help_text = "The whole address. One that was erased is found too."
    actions = None
    """Django's own deletes many rows and asks for no note."""
    readonly_fields = ("cause", "source", "message", "created_at")

    def save_model(self, request: HttpRequest, obj: Suppression, form: forms.ModelForm, change: bool) -> None:
        if not change:
            obj.cause, obj.source = Cause.OPERATOR, request.user.get_username()[:100]
        super().save_model(request, obj, form, change)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Suppression], search_term: str
    ) -> tuple[QuerySet[Suppression], bool]:
        return (queryset & rows_of(search_term) if search_term else queryset), False

    @admin.display(description="since", ordering="created_at")
    def since(self, suppression: Suppression) -> str:
        return f"{timesince(suppression.created_at)} ago"

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        row = self.get_object(request, object_id)
        return lift(request, row.pk if row else 0)

    def get_urls(self) -> list[URLPattern]:
        return [
            path("<int:pk>/lift/", self.admin_site.admin_view(lift), name="mailer_suppression_lift"),
            *super().get_urls(),
        ]


class Note(forms.Form):
    """Why mail is allowed again."""

    note = forms.CharField(max_length=500, help_text="For those who ask later. It is kept with your name.")


def lift(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask for a note, then delete the row of an address."""
    if not request.user.has_perm("mailer.delete_suppression"):
        raise PermissionDenied
    row = Suppression.objects.filter(pk=pk).first()
    if row is None:
        messages.info(request, "This address is not suppressed any more.")
        return HttpResponseRedirect(page_to_return_to(request))
    form = Note(request.POST if "note" in request.POST else None)
    if not form.is_valid():
        context = admin.site.each_context(request) | {
            "title": LIFT,
            "opts": Suppression._meta,
            "row": row,
            "form": form,
            "next": page_to_return_to(request),
        }
        return render(request, "admin/mailer/suppression/lift.html", context)
    record_deletion(request, row, f"{LIFT}: {form.cleaned_data['note']}")
    row.delete()
    what = row.what.removesuffix(" at all")
    rest = "What was not sent stays so: send it again if it is wanted."
    messages.success(request, f"To {row.address}, {what} is sent again. {rest}")
    return HttpResponseRedirect(page_to_return_to(request))


def lift_button(request: HttpRequest, suppression: Suppression) -> list[Button]:
    """Return the button that allows mail to the address again, if this operator may press it."""
    url = reverse("admin:mailer_suppression_lift", args=[suppression.pk])
    return [Button(LIFT, url)] if request.user.has_perm("mailer.delete_suppression") else []
