"""Every kind of mail: what it is for, how much of it was sent and failed lately, and what it looks like."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from mailer import outbox
from mailer.admin.button import button
from mailer.admin.frame import framed, framed_words, page_with_frames
from mailer.composing import previews
from mailer.composing.previews import CLIPPED, NoPreview
from mailer.email import KINDS, Email
from mailer.models import Message, State

# Both use an index: only what was settled in the last day is read, and one row for each name of a kind.
LAST_DAY = f"""
SELECT kind, count(*), count(*) FILTER (WHERE state = '{State.FAILED}')
FROM {Message._meta.db_table}
WHERE settled_at > statement_timestamp() - interval '1 day' AND state IN ('{State.SENT}', '{State.FAILED}')
GROUP BY kind
"""  # noqa: S608 - the names are our own
LAST_SENT = f"""
SELECT name, (
    SELECT settled_at FROM {Message._meta.db_table}
    WHERE kind = name AND state = '{State.SENT}' ORDER BY id DESC LIMIT 1
) FROM unnest(%s::text[]) AS name
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Row:
    """One kind in the table."""

    kind: str
    summary: str
    last_sent: datetime | None
    settled: int
    """Messages that were sent or failed in the last 24 hours."""
    failed: int

    @property
    def failure_rate(self) -> float:
        """In percent."""
        return 100 * self.failed / self.settled if self.settled else 0.0


def kinds_page(request: HttpRequest, messages_admin: Any) -> HttpResponse:
    """Show every kind with its numbers."""
    _check(request, messages_admin)
    context = messages_admin.admin_site.each_context(request) | {
        "title": "Kinds of mail",
        "opts": Message._meta,
        "rows": _rows(),
    }
    return render(request, "admin/mailer/message/kinds.html", context)


def kind_page(request: HttpRequest, messages_admin: Any, kind: str) -> HttpResponse:
    """Show one kind in a language: HTML as a desktop and a phone show it, text, and size."""
    _check(request, messages_admin)
    found, language = _find(kind), request.GET.get("language", "")
    language = language if language in previews.languages() else previews.languages()[0]
    context = messages_admin.admin_site.each_context(request) | {
        "title": found.kind,
        "opts": Message._meta,
        "kind": found.kind,
        "summary": previews.summary(found),
        "language": language,
        "languages": previews.languages(),
        "clipped": CLIPPED,
        "may_send": messages_admin.has_decide_permission(request),
        "address": _own_address(request),
        **_preview(found, language),
    }
    return page_with_frames(request, "admin/mailer/message/kind.html", context)


def kind_html(request: HttpRequest, messages_admin: Any, kind: str, language: str) -> HttpResponse:
    """Answer with the HTML of a sample, for the frames of its page."""
    _check(request, messages_admin)
    if language not in previews.languages():
        raise Http404
    try:
        return framed(previews.preview(_find(kind), language))
    except NoPreview as error:
        return framed_words(request, str(error))


@button("Send me this")
def send_sample(request: HttpRequest, kind: str, language: str) -> str:
    """Send the sample of a kind to the person who asks for it."""
    if language not in previews.languages():
        raise Http404
    try:
        _, sample = previews.build_sample(_find(kind), language)
    except NoPreview as error:
        return f"It cannot be sent: {error}."
    if not (address := _own_address(request)):
        return "It cannot be sent: your account has no address."
    sample.to, sample.cc, sample.bcc = [address], [], []
    sample.extra_headers = {k: v for k, v in sample.extra_headers.items() if k != "Message-ID"}  # it gets its own
    message = outbox.enqueue_built(sample)
    return f"The sample is on its way to {address} as message {message.pk}."


def _check(request: HttpRequest, messages_admin: Any) -> None:
    if not messages_admin.has_view_permission(request):
        raise PermissionDenied


def _find(kind: str) -> type[Email]:
    if kind not in KINDS:
        raise Http404
    return KINDS[kind]


def _own_address(request: HttpRequest) -> str:
    user: Any = request.user
    return str(getattr(user, user.get_email_field_name(), "") or "")


def _preview(kind: type[Email], language: str) -> Mapping[str, Any]:
    try:
        preview = previews.preview(kind, language)
    except NoPreview as error:
        return {"no_preview": str(error)}
    return {"preview": preview, "size": (size := len(preview.html.encode())), "is_clipped": size > CLIPPED}


def _rows() -> list[Row]:
    kinds = previews.all_kinds()
    with connection.cursor() as cursor:
        cursor.execute(LAST_DAY)
        lately = {kind: (settled, failed) for kind, settled, failed in cursor.fetchall()}
        cursor.execute(LAST_SENT, [[name for kind in kinds for name in kind.names()]])
        last_sent = dict(cursor.fetchall())
    return [_row(kind, lately, last_sent) for kind in kinds]


def _row(kind: type[Email], lately: Mapping[str, tuple[int, int]], last_sent: Mapping[str, datetime | None]) -> Row:
    """Add up what is stored under the present and the former names of a kind."""
    numbers = [lately.get(name, (0, 0)) for name in kind.names()]
    times = [time for name in kind.names() if (time := last_sent.get(name))]
    return Row(
        kind.kind,
        previews.summary(kind),
        max(times, default=None),
        sum(settled for settled, _ in numbers),
        sum(failed for _, failed in numbers),
    )
