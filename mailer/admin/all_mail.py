"""All mail: the list of messages, each with the sentence why it is where it is, and the search for a person or a message.

It is as fast with a million messages: it counts no further than MOST, and shows the newest first, as the primary key has them.
"""

from functools import cached_property
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from mailer.admin.decisions import MOST, Decisions
from mailer.admin.pulse import pulse_of
from mailer.composing.previews import all_kinds
from mailer.delivery.explain import explain, facts
from mailer.email import KINDS
from mailer.models import WAITING, Message, State
from mailer.recipients import search

CHIPS = {
    "waiting": ("Waiting", Q(state__in=WAITING) | Q(state=State.SENDING), "No message waits."),
    "failed": ("Failed", Q(state=State.FAILED), "No message failed."),
    "held": ("Held", Q(state=State.HELD), "No message is held: none waits for a person."),
    "sent": ("Sent", Q(state=State.SENT), "No message was sent yet."),
}
"""Value in the URL → label, condition as an index has it, and what an empty list means."""
BACKLOG = ("waiting", "failed", "held")
"""What people act on as a whole. These are counted up to MOST, and other lists up to COUNTED."""
COUNTED = 10_000


class Chips(admin.SimpleListFilter):
    """Waiting, failed, held, sent, all."""

    title = "state"
    parameter_name = "show"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, label) for value, (label, _, _) in CHIPS.items()]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(CHIPS[value][1]) if (value := self.value() or "") in CHIPS else queryset


class Kinds(admin.SimpleListFilter):
    """The kinds that this release has. Reading them from the table would read all of it."""

    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind.kind, kind.kind) for kind in all_kinds()]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if not (kind := self.value()):
            return queryset
        return queryset.filter(kind__in=KINDS[kind].names() if kind in KINDS else [kind])


class NewestFirst(Paginator):
    """Pages of the newest messages. It counts no further than its limit, so that no page reads the whole table."""

    limit = COUNTED

    @cached_property
    def count(self) -> int:
        messages: Any = self.object_list
        return int(messages.order_by()[: self.limit].count())


class MessageList(ChangeList):
    """The list, each of its messages with its explanation, in two queries for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        known, pulse = facts(self.result_list), pulse_of(request)
        for message in self.result_list:
            message.explanation = explain(message, pulse, known[message.pk])
        [all_of_them, *states] = next(spec for spec in self.filter_specs if isinstance(spec, Chips)).choices(self)
        self.chips = [*states, all_of_them]
        self.other_filters = [spec for spec in self.filter_specs if not isinstance(spec, Chips)]

    @property
    def empty(self) -> str:
        """Say what it means that nothing is listed."""
        if self.query:
            return f"Nothing is known of “{self.query}”: no message, address or account has it."
        if len(self.filter_params) > ("show" in self.filter_params):
            return "No message matches these filters."
        return CHIPS.get(self.params.get("show", ""), ("", (), "No message was asked for yet."))[2]

    @property
    def is_cut(self) -> bool:
        """Whether there may be more messages than are counted."""
        return bool(self.result_count >= self.paginator.limit)


class AllMail(Decisions):
    """The list of the ModelAdmin of messages."""

    list_display = ("asked_for", "recipient", "what", "sentence")
    list_display_links = ("asked_for", "sentence")
    list_filter = (Chips, "state", "queue", Kinds)
    list_per_page = 50
    sortable_by = ()
    """The newest first: no other order has an index."""
    search_fields = ("recipient",)
    """Names no field: it only makes Django show the box. `recipients.search` finds."""
    search_help_text = "Any part of an address, the number of a message, a Message-ID, or a part of a subject."
    show_full_result_count = False

    @admin.display(description="asked for")
    def asked_for(self, message: Message) -> str:
        return format_html(
            '<time title="{}">{}</time>',
            f"{message.created_at:%Y-%m-%d %H:%M:%S} UTC",
            f"{message.created_at:%d %b %H:%M}",
        )

    @admin.display(description="kind")
    def what(self, message: Message) -> str:
        return format_html('<span title="{}">{}</span>', message.kind, message.kind.rpartition(".")[2])

    @admin.display(description="why it is where it is")
    def sentence(self, message: Message) -> str:
        explanation = message.explanation  # type: ignore[attr-defined]  # set by MessageList
        return format_html('<span class="mail-level {}">{}</span>', explanation.level, explanation)

    def limit(self, request: HttpRequest) -> int:
        """Return how many messages the list counts, and an action on all of them is about."""
        return MOST if request.GET.get("show") in BACKLOG else COUNTED

    def get_paginator(
        self, request: HttpRequest, queryset: Any, per_page: int, *args: Any, **options: Any
    ) -> Paginator:
        paginator = NewestFirst(queryset, per_page, *args, **options)
        paginator.limit = self.limit(request)
        return paginator

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return MessageList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        return queryset.filter(pk__in=_found(request, search_term).messages.values("pk")), False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Lead a search that finds one message, or one person, straight to it."""
        text = request.GET.get("q", "")
        found = _found(request, text) if text and self.has_view_permission(request) else search.Found()
        if set(request.GET) == {"q"} and request.method == "GET" and (place := _only_place(found)):
            return redirect(place)
        context = {"title": "All mail", "persons": [(address, person_url(address)) for address in found.addresses]}
        response: HttpResponse = super().changelist_view(request, context | (extra_context or {}))
        return response


def person_url(address: str) -> str:
    """Return the address of the page of a person."""
    return f"{reverse('admin:mailer_message_person')}?{urlencode({'q': address})}"


def _found(request: HttpRequest, text: str) -> search.Found:
    """Search once a request."""
    known = request.__dict__.setdefault("mail_found", {})
    if text not in known:
        known[text] = search.find(text)
    found: search.Found = known[text]
    return found


def _only_place(found: search.Found) -> str:
    """Return the page of the only message that was found, or else of the only person; or nothing."""
    messages = list(found.messages.values_list("pk", flat=True)[:2])
    if len(messages) == 1:
        return reverse("admin:mailer_message_change", args=messages)
    return person_url(found.addresses[0]) if len(found.addresses) == 1 else ""
