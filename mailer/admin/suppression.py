"""Addresses that get no mail at all, or no mail of one stream."""

from django.contrib import admin
from django.utils.timesince import timesince

from mailer.models import Suppression


@admin.register(Suppression)
class SuppressionAdmin(admin.ModelAdmin):
    """To write to an address again, delete its row. A row with a stream stops the mail of that stream only."""

    list_display = ("address", "stream", "reason", "since")
    list_filter = ("stream",)
    search_fields = ("address__exact",)
    readonly_fields = ("message", "created_at")

    @admin.display(description="since", ordering="created_at")
    def since(self, suppression: Suppression) -> str:
        return f"{timesince(suppression.created_at)} ago"
