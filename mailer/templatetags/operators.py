"""Template tags for the admin: the banner of every page, and the front page's overview of mail.

In a project of your own, `templates/admin/base_site.html` and `templates/admin/index.html` use them.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django import template
from django.conf import settings
from django.template import Context
from django.urls import reverse

from mailer.admin.button import button_of
from mailer.admin.overview import overview
from mailer.admin.pulse import pulse_of
from mailer.admin.read_only import DECIDE
from mailer.delivery.pulse import Action, health
from mailer.text import hide_codes

register = template.Library()
register.filter("hide_codes", hide_codes)


@register.inclusion_tag("admin/mailer/banner.html", takes_context=True)
def mail_banner(context: Context) -> Mapping[str, Any]:
    """Show what does not run, with the button that helps. Nothing for users who may not see messages."""
    lines = [line for line in health(pulse_of(context["request"])) if not line.is_well] if _may_see(context) else []
    return {"lines": lines, **_request(context)}


@register.inclusion_tag("admin/mailer/overview.html", takes_context=True)
def mail_overview(context: Context) -> Mapping[str, Any]:
    """Show health, what waits and why, and the last hour. Nothing for users who may not see messages."""
    if not _may_see(context):
        return {}
    messages = reverse("admin:mailer_message_changelist")
    links = [("All mail", messages), ("Send a test e-mail", reverse("admin:mailer_message_send_test"))]
    if flower := getattr(settings, "FLOWER_URL", ""):
        links.append(("Flower: tasks and workers", flower))
    return {
        "overview": overview(pulse_of(context["request"])),
        "messages": messages,
        "links": links,
        **_request(context),
    }


@register.inclusion_tag("admin/mailer/buttons.html", takes_context=True)
def mail_button(context: Context, action: Action | None, target: str = "") -> Mapping[str, Any]:
    """Show the button of an action, if it is one that does not concern a single message and the user may press it."""
    button = button_of(action, target) if context["request"].user.has_perm(DECIDE) else None
    return {"buttons": [button] if button else [], **_request(context)}


def _request(context: Context) -> Mapping[str, Any]:
    return {name: context.get(name) for name in ("request", "csrf_token")}


def _may_see(context: Context) -> bool:
    user = getattr(context.get("request"), "user", None)
    return bool(context.get("has_permission") and user and user.has_perm("mailer.view_message"))


@register.filter
def seconds(duration: timedelta | None) -> str:
    """Return a duration as operators compare it; empty for None."""
    return f"{duration.total_seconds():.2f} s" if duration is not None else ""
