from django.apps import AppConfig


class DeskConfig(AppConfig):
    """What operators see of the mailer."""

    name = "mailer.desk"
    label = "desk"
