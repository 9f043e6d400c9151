"""Messages with their delivery attempts, read-only, and what an operator can decide about them."""

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html_join

from mailer import outbox
from mailer.admin.read_only import ReadOnly
from mailer.admin.send_test import send_test_page
from mailer.email import ReferenceGone, UnknownKind
from mailer.models import SETTLED, DeliveryAttempt, Message, MessageQuerySet


class AttemptInline(ReadOnly, admin.TabularInline):
    model = DeliveryAttempt
    verbose_name_plural = "delivery attempts"
    fields = ("number", "started", "took", "outcome", "code", "response", "transport", "worker")
    readonly_fields = fields

    @admin.display(description="started")
    def started(self, attempt: DeliveryAttempt) -> str:
        return f"{timezone.localtime(attempt.started_at):%Y-%m-%d %H:%M:%S}"  # seconds matter here

    @admin.display(description="took")
    def took(self, attempt: DeliveryAttempt) -> str:
        return "under way" if attempt.milliseconds is None else f"{attempt.milliseconds} ms"


@admin.register(Message)
class MessageAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("id", "state", "recipient", "kind", "short_reason", "due_at", "attempts")
    list_filter = ("state", "queue", "kind", "created_at")
    search_fields = ("recipient__exact", "user__email__exact", "message_id_header__exact", "subject")
    search_help_text = "The whole address of recipient or user, the Message-ID, or a part of the subject."
    date_hierarchy = "created_at"
    show_full_result_count = False  # a count of a million rows for a number that nobody reads
    actions = ["send_again", "drop", "mark_as_delivered", "resend"]
    inlines = [AttemptInline]
    readonly_fields = ["resent_as"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("state", "queue", "transport"),
                    "reason",
                    ("recipient", "user"),
                    "subject",
                    ("kind", "message_id_header"),
                    ("resent_from", "resent_as"),
                ]
            },
        ),
        ("Times", {"fields": [("created_at", "due_at", "expires_at", "settled_at")]}),
        (
            "Details",
            {
                "fields": ["attempts", "answers", "arguments", "claimed_until", "publish_at"],
                "classes": ["collapse"],
            },
        ),
    ]

    @admin.display(description="resent as")
    def resent_as(self, message: Message) -> str:
        links = (
            (reverse("admin:mailer_message_change", args=[copy.pk]), str(copy)) for copy in message.resent_as.all()
        )
        return format_html_join(", ", '<a href="{}">{}</a>', links) or "-"

    @admin.display(description="reason")
    def short_reason(self, message: Message) -> str:
        return message.reason if len(message.reason) <= 80 else message.reason[:79] + "…"

    @admin.action(description="Send held or failed messages again", permissions=["decide"])
    def send_again(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        self._tell(request, queryset, outbox.retry(queryset, reason=_by(request, "sent again")), "queued again")

    @admin.action(description="Drop waiting or held messages", permissions=["decide"])
    def drop(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        self._tell(request, queryset, outbox.cancel_all(queryset, reason=_by(request, "dropped")), "dropped")

    @admin.action(description="Held messages did arrive", permissions=["decide"])
    def mark_as_delivered(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        done = outbox.mark_as_delivered(queryset, reason=_by(request, "arrival confirmed"))
        self._tell(request, queryset, done, "marked as arrived")

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Who may change messages may take these decisions, though the form itself stays read-only."""
        return request.user.has_perm("mailer.change_message")

    @admin.action(description="Send settled messages once more, as new ones", permissions=["decide"])
    def resend(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        """For the customer who deleted her receipt: the old message keeps its story, the new one has a link to it."""
        done = 0
        for message in queryset.filter(state__in=SETTLED):
            try:
                outbox.resend(message)
            except (ReferenceGone, UnknownKind, ValueError) as error:
                self.message_user(request, f"Message {message.pk} cannot be made again: {error}.", messages.ERROR)
            else:
                done += 1
        self._tell(request, queryset, done, "enqueued as new messages")

    def get_urls(self) -> list[URLPattern]:
        test_page = self.admin_site.admin_view(self.send_test_page)
        return [path("send-test/", test_page, name="mailer_message_send_test"), *super().get_urls()]

    def send_test_page(self, request: HttpRequest) -> HttpResponse:
        if not self.has_decide_permission(request):
            raise PermissionDenied
        return send_test_page(request, self.admin_site)

    def _tell(self, request: HttpRequest, queryset: QuerySet[Message], done: int, what: str) -> None:
        level = messages.SUCCESS if done else messages.WARNING
        left = queryset.count() - done
        rest = f"; {left} could not be, because of the state that they are in" if left else ""
        self.message_user(request, f"{done} {what}{rest}.", level)


def _by(request: HttpRequest, what: str) -> str:
    return f"{what} by {request.user.get_username()}"
