from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import mailers
from django.utils.module_loading import autodiscover_modules

from mailer.conf import hold_against_broker, options


class MailerConfig(AppConfig):
    """Holds the configuration against reality when a process starts, instead of when the first mail is due."""

    name = "mailer"

    def ready(self) -> None:
        options()
        hold_against_broker(options(), getattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", {}))
        for alias in settings.MAILERS:
            try:
                mailers[alias]  # builds the backend, opens nothing
            except ImproperlyConfigured as error:  # its text names the option, and never a value
                raise ImproperlyConfigured(
                    f"MAILERS[{alias!r}], made from its …EMAIL_URL, is not usable: {error}"
                ) from None
        autodiscover_modules("emails")
