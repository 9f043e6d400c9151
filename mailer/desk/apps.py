from django.apps import AppConfig


class DeskConfig(AppConfig):
    """What operators and providers see of the mailer."""

    name = "mailer.desk"
    label = "desk"
