"""The page of a person: their account, whether their address gets mail, and their messages with what to press."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse

from mailer.addresses import canonical
from mailer.admin.button import Button
from mailer.admin.decisions import offered
from mailer.admin.pulse import pulse_of
from mailer.admin.suppression import lift_button
from mailer.delivery.explain import Explanation, explain, facts
from mailer.models import Message
from mailer.recipients import search

SHOWN = 50
"""The newest messages that the page shows."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A message of the person, with its explanation and buttons."""

    message: Message
    explanation: Explanation
    buttons: Sequence[Button]


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the person."""

    name: str
    url: str
    """Its page in the admin; empty if there is none, or if this operator must not see it."""
    is_verified: bool | None
    """Whether its address is verified; None if accounts of this project do not say so."""


def person_page(request: HttpRequest, messages_admin: Any) -> HttpResponse:
    """Show everything about the person of the address in the query."""
    if not messages_admin.has_view_permission(request):
        raise PermissionDenied
    text = request.GET.get("q", "").strip()
    found = search.find(text)
    address = found.addresses[0] if len(found.addresses) == 1 else canonical(text) if "@" in text else ""
    context = messages_admin.admin_site.each_context(request) | {
        "title": address or text or "Find a person",
        "opts": Message._meta,
        "text": text,
        "address": address,
        "others": found.addresses if len(found.addresses) > 1 else (),
        "accounts": [_account(request, user) for user in found.users],
        "suppressions": [(row, lift_button(request, row)) for row in found.suppressions],
        "mails": _mails(request, found, may_decide=messages_admin.has_decide_permission(request)),
        "all_url": f"{reverse('admin:mailer_message_changelist')}",
        "shown": SHOWN,
        "searched": f"{search.LONG_AGO:,}",
    }
    return render(request, "admin/mailer/message/person.html", context)


def _mails(request: HttpRequest, found: search.Found, *, may_decide: bool) -> list[Mail]:
    messages = list(found.messages[:SHOWN])
    known, pulse = facts(messages), pulse_of(request)
    explanations = {message.pk: explain(message, pulse, known[message.pk]) for message in messages}
    return [
        Mail(message, why := explanations[message.pk], offered(message, why)[:1] if may_decide else ())
        for message in messages
    ]


def _account(request: HttpRequest, user: Any) -> Account:
    meta = get_user_model()._meta
    may_see = request.user.has_perm(f"{meta.app_label}.view_{meta.model_name}")
    try:
        url = reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[user.pk]) if may_see else ""
    except NoReverseMatch:  # a project may have no page for its accounts
        url = ""
    verified = getattr(user, "email_verified_at", ...)
    return Account(user.get_username(), url, None if verified is ... else verified is not None)
