from collections.abc import Mapping
from typing import Any

from anymail.signals import pre_send
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import register
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import mailers
from django.utils.module_loading import autodiscover_modules

from mailer import routes
from mailer.addresses import mailbox
from mailer.conf import hold_against_broker, options
from mailer.transports import staging
from mailer.transports.dkim import signer

FROM_URLS = ("transport", "fallback")
"""The aliases in MAILERS that the environment describes."""


class MailerConfig(AppConfig):
    """Holds the configuration against reality when a process starts, instead of when the first mail is due."""

    name = "mailer"

    def ready(self) -> None:
        options()
        hold_against_broker(options(), getattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", {}))
        signer()
        if mailbox(settings.DEFAULT_FROM_EMAIL) is None:
            raise ImproperlyConfigured(
                "DEFAULT_FROM_EMAIL must be one address, as in Shop <hello@shop.example>; quote a name with a comma."
            )
        for alias in settings.MAILERS:
            try:
                backend = mailers[alias]  # builds it, opens nothing
            except ImproperlyConfigured as error:  # its text names the option, and never a value
                if alias not in FROM_URLS:
                    raise
                raise ImproperlyConfigured(
                    f"MAILERS[{alias!r}], made from its …EMAIL_URL, is not usable: {error}"
                ) from None
            if alias in routes.names() and getattr(backend, "fail_silently", False):
                raise ImproperlyConfigured(
                    f"MAILERS[{alias!r}]: leave 'fail_silently' away, with which nobody hears what the server says."
                )
            if staging.is_test_system():
                _hold_against_interception(alias, getattr(backend, "send_defaults", {}))
        pre_send.connect(staging.before_provider, dispatch_uid="mailer.transports.staging")
        autodiscover_modules("emails")
        from mailer import checks  # imports models, which are ready by now

        register(checks.check_kinds)
        register(checks.check_transports)


def _hold_against_interception(alias: str, defaults: Mapping[str, Any]) -> None:
    """Anymail adds these behind our back, after a message's own recipients were looked at."""
    if unseen := sorted(defaults.keys() & {"to", "cc", "bcc", "esp_extra", "extra_headers", *staging.PER_RECIPIENT}):
        raise ImproperlyConfigured(
            f"MAILERS[{alias!r}]: Anymail's SEND_DEFAULTS set {unseen[0]!r} on every message, which may add recipients that "
            "MAILER_REDIRECT_ALL_TO and MAILER_ALLOWED_RECIPIENTS do not see; leave it away on a test system."
        )
