"""Transports that are paused, and the action that probes them now; the pace of transports; the workers."""

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import URLPattern, path

from mailer.admin.button import button
from mailer.admin.deliver_now import deliver_now
from mailer.admin.history import record
from mailer.admin.read_only import ReadOnly
from mailer.database import now
from mailer.delivery import circuit, limits, quota
from mailer.delivery.pulse import Action
from mailer.models import Circuit, TransportState, Worker


@admin.register(Circuit)
class CircuitAdmin(ReadOnly, admin.ModelAdmin):
    """Show the transports that failed at least once."""

    list_display = (
        "transport",
        "host",
        "reason",
        "by_person",
        "needs_person",
        "paused_until",
        "paused_since",
        "failures",
    )
    actions = ["probe_now"]

    @admin.action(description="Probe now instead of at the end of the pause", permissions=["decide"])
    def probe_now(self, request: HttpRequest, queryset: QuerySet[Circuit]) -> None:
        self.message_user(request, _probe(request, queryset))

    def get_urls(self) -> list[URLPattern]:
        probe, resume = map(self.admin_site.admin_view, (probe_now, resume_now))
        return [
            path("<int:pk>/probe/", probe, name="mailer_probe_now"),
            path("<int:pk>/resume/", resume, name="mailer_resume_now"),
            *super().get_urls(),
        ]


@button(Action.PROBE)
def probe_now(request: HttpRequest, pk: int) -> str:
    """Probe the transport of one circuit now."""
    return _probe(request, Circuit.objects.filter(pk=pk))


@button(Action.RESUME)
def resume_now(request: HttpRequest, pk: int) -> str:
    """End the pause of a person."""
    paused = Circuit.objects.filter(pk=pk, by_person=True).first()
    if paused is None or not circuit.resume(paused.transport):
        return "This transport is not paused by a person any more."
    record(request, [paused], Action.RESUME)
    return f"The transport {paused.transport!r} is used again."


def _probe(request: HttpRequest, circuits: QuerySet[Circuit]) -> str:
    paused = list(circuits.filter(by_person=False).exclude(paused_until=None))
    if not paused:
        return "This transport is not paused any more."
    Circuit.objects.filter(pk__in=[circuit.pk for circuit in paused]).exclude(paused_until=None).update(
        paused_until=Now()
    )
    record(request, paused, Action.PROBE)
    return "A worker probes with the next message, in a few seconds."


@admin.register(TransportState)
class TransportStateAdmin(ReadOnly, admin.ModelAdmin):
    """Show the transports that have a rate limit."""

    list_display = ("alias", "rate", "slot_at", "in_24_hours", "daily_quota")

    @admin.display(description="messages in 24 hours")
    def in_24_hours(self, state: TransportState) -> int | str:
        return quota.taken_by_hour(state.taken, now()).total() if state.taken else ""

    @admin.display(description="daily quota")
    def daily_quota(self, state: TransportState) -> int | None:
        return limits.of(state.alias).quota


@admin.register(Worker)
class WorkerAdmin(ReadOnly, admin.ModelAdmin):
    """Show the worker processes and their heartbeats."""

    list_display = ("host", "pid", "role", "queues", "doing", "seen_at", "broker_at", "started_at", "release")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(deliver_now)
        return [path("deliver-now/", view, name="mailer_deliver_now"), *super().get_urls()]
