"""Streams: how much of their mail was reported as spam, and the button that resumes one that is paused."""

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern, path

from mailer.admin.button import button
from mailer.admin.history import record
from mailer.admin.read_only import ReadOnly
from mailer.delivery.pulse import Action
from mailer.feedback import reputation
from mailer.models import StreamReputation


@admin.register(StreamReputation)
class StreamReputationAdmin(ReadOnly, admin.ModelAdmin):
    """Show the streams that were paused, or whose mail was reported as spam."""

    list_display = ("stream", "paused_since", "by_person", "reason", "complaints", "sent", "counted_at", "counts_from")

    def get_urls(self) -> list[URLPattern]:
        resume = self.admin_site.admin_view(resume_stream)
        return [path("<slug:stream>/resume/", resume, name="mailer_resume_stream"), *super().get_urls()]


@button(Action.RESUME_STREAM)
def resume_stream(request: HttpRequest, stream: str) -> str:
    """Let the mail of a stream go on."""
    if not reputation.resume(stream):
        return f"The stream {stream!r} is not paused any more."
    record(request, [StreamReputation(stream=stream)], Action.RESUME_STREAM)
    return f"The mail of the stream {stream!r} goes on in some seconds."
