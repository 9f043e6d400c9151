"""What the footer of every page links to."""

from django.conf import settings
from django.http import HttpRequest


def links(request: HttpRequest) -> dict[str, str]:
    """Return the variables of templates/footer.html. An empty one is not shown."""
    return {
        "support_email": settings.SUPPORT_EMAIL,
        "privacy_url": settings.PRIVACY_URL,
        "terms_url": settings.TERMS_URL,
    }
