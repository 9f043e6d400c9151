from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        # They connect signal receivers and register a kind of e-mail.
        from accounts import devices, login_alerts, second_factor  # noqa: F401
