from django import template
from django.conf import settings
from django.urls import reverse

register = template.Library()


@register.simple_tag
def operator_links() -> list[tuple[str, str]]:
    """Return label and URL of the links for operators on the admin's front page."""
    messages = reverse("admin:mailer_message_changelist")
    links = [
        ("Messages that retry, are held or failed", f"{messages}?state__in=retrying,held,failed"),
        ("Send a test e-mail", reverse("admin:mailer_message_send_test")),
    ]
    if flower := getattr(settings, "FLOWER_URL", ""):
        links.append(("Flower: tasks and workers", flower))
    return links
