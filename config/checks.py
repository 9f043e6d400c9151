"""A check for `manage.py check --deploy`."""

from typing import Any

from django.conf import settings
from django.core import checks


@checks.register(checks.Tags.security, deploy=True)
def proxy_is_named(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Warn if no proxy is in front: gunicorn gives a thread to each slow client, and its settings bound no such time."""
    if settings.TRUSTED_PROXIES:
        return []
    hint = "Put a proxy that buffers requests in front of the site, and its address into TRUSTED_PROXIES: see docs/deploy.md."
    return [
        checks.Warning("TRUSTED_PROXIES is empty: eight slow clients can stop the site.", hint=hint, id="config.W001")
    ]
