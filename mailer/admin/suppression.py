"""Addresses that get no mail at all, or no mail of one stream."""

from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.urls import URLPattern, path, reverse
from django.utils.timesince import timesince

from mailer.admin.button import Button, button
from mailer.admin.history import record_deletion
from mailer.models import Cause, Suppression
from mailer.recipients.suppression import rows_of

LIFT = "Allow mail again"
"""The name of the button that deletes the row of an address."""


@admin.register(Suppression)
class SuppressionAdmin(admin.ModelAdmin):
    """To write to an address again, delete its row. A row with a stream stops the mail of that stream only."""

    list_display = ("address", "stream", "cause", "source", "reason", "since")
    list_filter = ("cause", "stream")
    search_fields = ("address__exact",)
    search_help_text = "The whole address. One that was erased is found too."
    readonly_fields = ("cause", "source", "message", "created_at")

    def save_model(self, request: HttpRequest, obj: Suppression, form: ModelForm, change: bool) -> None:
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

    def get_urls(self) -> list[URLPattern]:
        return [
            path("<int:pk>/lift/", self.admin_site.admin_view(lift), name="mailer_suppression_lift"),
            *super().get_urls(),
        ]


@button(LIFT, "mailer.delete_suppression")
def lift(request: HttpRequest, pk: int) -> str:
    """Delete the row of an address."""
    row = Suppression.objects.filter(pk=pk).first()
    if row is None:
        return "This address is not suppressed any more."
    record_deletion(request, row, LIFT)
    row.delete()
    what = f"mail of the stream {row.stream}" if row.stream else "mail"
    return f"To {row.address}, {what} is sent again. What was not sent stays so: send it again if it is wanted."


def lift_button(request: HttpRequest, suppression: Suppression) -> list[Button]:
    """Return the button that allows mail to the address again, if this operator may press it."""
    url = reverse("admin:mailer_suppression_lift", args=[suppression.pk])
    return [Button(LIFT, url)] if request.user.has_perm("mailer.delete_suppression") else []
