"""Messages: the list, and the page of one message, which answers why it is where it is and what to press."""

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html_join

from mailer.admin.all_mail import AllMail, person_url
from mailer.admin.button import Button
from mailer.admin.decisions import offered
from mailer.admin.frame import allow_frames, framed, framed_words
from mailer.admin.kinds import kind_html, kind_page, kinds_page, send_sample
from mailer.admin.person import person_page
from mailer.admin.pulse import pulse_of
from mailer.admin.send_test import send_test_page
from mailer.admin.suppression import lift_button
from mailer.admin.timeline import timeline
from mailer.composing.previews import NoPreview, rebuild, summary
from mailer.delivery.broker import DELIVER_TASK
from mailer.delivery.explain import Explanation, Facts, explain, facts
from mailer.delivery.pulse import Pulse
from mailer.email import UnknownKind, find
from mailer.models import SETTLED, Message, State
from mailer.text import hide_codes

SOON, LATER = 5, 30
"""Seconds until the page of a message loads itself again: while something may happen at once, and otherwise."""


@admin.register(Message)
class MessageAdmin(AllMail):
    """The page of a message, and the URLs of all pages about mail."""

    readonly_fields = ["resent_as", "subject_without_codes"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("state", "queue", "transport"),
                    "reason",
                    ("recipient", "user"),
                    "subject_without_codes",
                    ("kind", "message_id_header"),
                    ("resent_from", "resent_as"),
                ]
            },
        ),
        ("Times", {"fields": [("created_at", "first_due_at", "due_at", "expires_at", "settled_at")]}),
        (
            "Internals",
            {
                "fields": [
                    ("attempts", "reservations"),
                    "answers",
                    "arguments",
                    ("worker", "claimed_until"),
                    ("troubled_since", "notify_at"),
                    "traceparent",
                ],
            },
        ),
    ]

    @admin.display(description="subject")
    def subject_without_codes(self, message: Message) -> str:
        return hide_codes(message.subject) or "-"

    @admin.display(description="resent as")
    def resent_as(self, message: Message) -> str:
        links = (
            (reverse("admin:mailer_message_change", args=[copy.pk]), str(copy)) for copy in message.resent_as.all()
        )
        return format_html_join(", ", '<a href="{}">{}</a>', links) or "-"

    def get_urls(self) -> list[URLPattern]:
        def view(page: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
            return self.admin_site.admin_view(partial(page, messages_admin=self))

        admin_view = self.admin_site.admin_view
        return [
            path("send-test/", admin_view(self.send_test_page), name="mailer_message_send_test"),
            path("person/", view(person_page), name="mailer_message_person"),
            path("kinds/", view(kinds_page), name="mailer_message_kinds"),
            path("kinds/<str:kind>/", view(kind_page), name="mailer_message_kind"),
            path("kinds/<str:kind>/<str:language>/html/", view(kind_html), name="mailer_message_kind_html"),
            path("kinds/<str:kind>/<str:language>/send/", admin_view(send_sample), name="mailer_message_send_sample"),
            path("<int:pk>/html/", admin_view(self.html), name="mailer_message_html"),
            *super().get_urls(),
        ]

    def send_test_page(self, request: HttpRequest) -> HttpResponse:
        if not self.has_decide_permission(request):
            raise PermissionDenied
        return send_test_page(request, self.admin_site)

    def html(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer with the HTML of the mail, for the frame on the page of its message."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        message = Message.objects.filter(pk=pk).first()
        if message is None:
            raise Http404
        try:
            return framed(rebuild(message))
        except NoPreview as error:
            return framed_words(request, str(error))

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Message | None = None,
    ) -> HttpResponse:
        if obj is not None:
            context |= self._answer(request, obj)
        return allow_frames(super().render_change_form(request, context, add, change, form_url, obj))

    def _answer(self, request: HttpRequest, message: Message) -> dict[str, Any]:
        known, pulse = facts([message])[message.pk], pulse_of(request)
        explanation = explain(message, pulse, known)
        return {
            "title": f"Message {message.pk}",
            "subtitle": None,
            "explanation": explanation,
            "buttons": self._buttons(request, message, explanation, known),
            "timeline": timeline(message, known),
            "refresh": _refresh(message, explanation, pulse),
            "kind_in_words": _in_words(message.kind),
            "person": person_url(message.recipient),
            "flower": _flower(message),
            **_mail(message),
        }

    def _buttons(self, request: HttpRequest, message: Message, explanation: Explanation, known: Facts) -> list[Button]:
        buttons = offered(message, explanation) if self.has_decide_permission(request) else []
        return buttons + (lift_button(request, known.suppression) if known.suppression else [])


def _refresh(message: Message, explanation: Explanation, pulse: Pulse) -> int | None:
    """Return the seconds until something may have changed by itself; None if a person has to decide."""
    if message.state in (*SETTLED, State.HELD):
        return None
    waits_long = explanation.until is not None and (explanation.until - pulse.now).total_seconds() > LATER
    return LATER if waits_long else SOON


def _mail(message: Message) -> dict[str, Any]:
    try:
        preview = rebuild(message)
    except NoPreview as error:
        return {"no_mail": str(error)}
    return {"mail": preview, "is_as_sent": message.payload_id is not None}


def _in_words(kind: str) -> str:
    try:
        return summary(find(kind))
    except UnknownKind:
        return ""


def _flower(message: Message) -> str:
    """Return the address of its tasks in Flower, whose list is searched by a task's name and arguments."""
    flower = getattr(settings, "FLOWER_URL", "")
    search = quote(f'{DELIVER_TASK} args:"{message.pk} ({message.kind})"')
    return f"{flower.rstrip('/')}/tasks?name={search}" if flower else ""
