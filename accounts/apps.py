from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import login_alerts, second_factor  # noqa: F401 - a signal receiver, a kind of e-mail
