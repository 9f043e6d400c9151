"""Transports that failed, and the action that probes them now."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from mailer.admin.read_only import ReadOnly
from mailer.models import TransportState


@admin.register(TransportState)
class TransportStateAdmin(ReadOnly, admin.ModelAdmin):
    """Show the transports that failed at least once."""

    list_display = ("alias", "paused_until", "failures", "reason")
    actions = ["probe_now"]

    @admin.action(description="Probe now instead of at the end of the pause", permissions=["decide"])
    def probe_now(self, request: HttpRequest, queryset: QuerySet[TransportState]) -> None:
        queryset.exclude(paused_until=None).update(paused_until=timezone.now())
        self.message_user(request, "The next sweep sends one message as a probe.")
