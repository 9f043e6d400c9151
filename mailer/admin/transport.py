"""Transports that are paused, and the action that probes them now; the pace of transports; the workers."""

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest

from mailer.admin.read_only import ReadOnly
from mailer.models import Circuit, TransportState, Worker


@admin.register(Circuit)
class CircuitAdmin(ReadOnly, admin.ModelAdmin):
    """Show the transports that failed at least once."""

    list_display = ("transport", "host", "reason", "needs_person", "paused_until", "paused_since", "failures")
    actions = ["probe_now"]

    @admin.action(description="Probe now instead of at the end of the pause", permissions=["decide"])
    def probe_now(self, request: HttpRequest, queryset: QuerySet[Circuit]) -> None:
        queryset.exclude(paused_until=None).update(paused_until=Now())
        self.message_user(request, "A worker probes with the next message, in a few seconds.")


@admin.register(TransportState)
class TransportStateAdmin(ReadOnly, admin.ModelAdmin):
    """Show the transports that have a rate limit."""

    list_display = ("alias", "rate", "slot_at")


@admin.register(Worker)
class WorkerAdmin(ReadOnly, admin.ModelAdmin):
    """Show the worker processes and their heartbeats."""

    list_display = ("host", "pid", "queues", "doing", "seen_at", "started_at", "release")
