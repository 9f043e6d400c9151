from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import devices, login_alerts  # noqa: F401 - they connect signal receivers
