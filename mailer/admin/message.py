"""Messages and their delivery attempts: read-only, with the actions that an operator can take."""

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import pluralize
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html_join

from mailer import outbox
from mailer.admin.read_only import ReadOnly
from mailer.admin.send_test import send_test_page
from mailer.delivery.explain import explain, look
from mailer.email import ReferenceGone, UnknownKind
from mailer.models import SETTLED, DeliveryAttempt, Message, MessageQuerySet


class AttemptInline(ReadOnly, admin.TabularInline):
    model = DeliveryAttempt
    verbose_name_plural = "delivery attempts"
    fields = ("number", "started", "took", "outcome", "code", "response", "transport", "worker")
    readonly_fields = fields

    @admin.display(description="started")
    def started(self, attempt: DeliveryAttempt) -> str:
        return f"{timezone.localtime(attempt.started_at):%Y-%m-%d %H:%M:%S}"  # with seconds

    @admin.display(description="took")
    def took(self, attempt: DeliveryAttempt) -> str:
        if attempt.finished_at is None:
            return "in progress"
        return f"{(attempt.finished_at - attempt.started_at).total_seconds() * 1000:.0f} ms"


@admin.register(Message)
class MessageAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("id", "state", "recipient", "kind", "due_at", "attempts", "short_reason")
    list_filter = ("state", "queue", "kind", "created_at")
    search_fields = ("recipient__exact", "user__email__exact", "message_id_header__exact", "subject")
    search_help_text = "The full address of the recipient or user, the Message-ID, or a part of the subject."
    date_hierarchy = "created_at"
    show_full_result_count = False  # it would count all rows of the table
    actions = ["retry", "cancel", "mark_as_delivered", "resend"]
    inlines = [AttemptInline]
    readonly_fields = ["why", "resent_as"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    "why",
                    ("state", "queue", "transport"),
                    "reason",
                    ("recipient", "user"),
                    "subject",
                    ("kind", "message_id_header"),
                    ("resent_from", "resent_as"),
                ]
            },
        ),
        ("Times", {"fields": [("created_at", "first_due_at", "due_at", "expires_at", "settled_at")]}),
        (
            "Details",
            {
                "fields": [
                    ("attempts", "reservations"),
                    "answers",
                    "arguments",
                    ("worker", "claimed_until"),
                    ("troubled_since", "notify_at"),
                ],
                "classes": ["collapse"],
            },
        ),
    ]

    @admin.display(description="why")
    def why(self, message: Message) -> str:
        return str(explain(message, look()))

    @admin.display(description="resent as")
    def resent_as(self, message: Message) -> str:
        links = (
            (reverse("admin:mailer_message_change", args=[copy.pk]), str(copy)) for copy in message.resent_as.all()
        )
        return format_html_join(", ", '<a href="{}">{}</a>', links) or "-"

    @admin.display(description="reason")
    def short_reason(self, message: Message) -> str:
        return message.reason if len(message.reason) <= 80 else message.reason[:79] + "…"

    # The messages are counted before they change: afterwards the filter of the list may not match them.

    @admin.action(description="Retry held or failed messages", permissions=["decide"])
    def retry(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        total, done = queryset.count(), outbox.retry(queryset, reason=_by(request, "retried"))
        self._report(request, total, done, "queued again", "state or key")

    @admin.action(description="Cancel waiting or held messages", permissions=["decide"])
    def cancel(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        total, done = queryset.count(), outbox.cancel_all(queryset, reason=_by(request, "cancelled"))
        self._report(request, total, done, "cancelled")

    @admin.action(description="Mark held messages as delivered", permissions=["decide"])
    def mark_as_delivered(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        total, done = queryset.count(), outbox.mark_as_delivered(queryset, reason=_by(request, "marked as delivered"))
        self._report(request, total, done, "marked as delivered")

    @admin.action(description="Resend settled messages as new messages", permissions=["decide"])
    def resend(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        """Enqueue a copy of each settled message, for example for a customer who deleted their receipt."""
        total, done = queryset.count(), 0
        for message in queryset.filter(state__in=SETTLED):
            try:
                outbox.resend(message)
            except (ReferenceGone, UnknownKind, ValueError) as error:
                total -= 1
                self.message_user(request, f"Message {message.pk} cannot be resent: {error}.", messages.ERROR)
            else:
                done += 1
        self._report(request, total, done, "resent")

    def get_urls(self) -> list[URLPattern]:
        test_page = self.admin_site.admin_view(self.send_test_page)
        return [path("send-test/", test_page, name="mailer_message_send_test"), *super().get_urls()]

    def send_test_page(self, request: HttpRequest) -> HttpResponse:
        if not self.has_decide_permission(request):
            raise PermissionDenied
        return send_test_page(request, self.admin_site)

    def _report(self, request: HttpRequest, total: int, done: int, action: str, what: str = "state") -> None:
        level = messages.SUCCESS if done else messages.WARNING
        skipped = f"; {total - done} skipped because of their {what}" if total > done else ""
        self.message_user(request, f"{done} message{pluralize(done)} {action}{skipped}.", level)


def _by(request: HttpRequest, action: str) -> str:
    return f"{action} by {request.user.get_username()}"
