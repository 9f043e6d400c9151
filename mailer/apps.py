from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class MailerConfig(AppConfig):
    """The outbox, its delivery, and the pages for operators."""

    name = "mailer"
    verbose_name = "E-mail"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from mailer import (
            checks,  # noqa: F401 - importing registers them
            replicas,
        )
        from mailer.transports import anymail

        anymail.connect()
        replicas.install()
        autodiscover_modules("emails")
