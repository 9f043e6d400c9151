"""The options of an account: what is wrong is said when the process starts, and no secret is quoted."""

import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import mailers
from pytest_django import Settings

from mailer.checks.settings import check_settings
from mailer.routes import PRIMARY
from mailer.transports.oauth.token import NoToken
from mailer.transports.oauth.tokens import tokens
from tests.mailer.transports.oauth.servers import CLIENT_SECRET

BACKEND = "mailer.transports.smtp.EmailBackend"
SMTP: dict[str, Any] = {"host": "localhost", "username": "noreply@shop.example", "use_tls": True}
MICROSOFT = {
    "provider": "microsoft",
    "tenant": "shop.onmicrosoft.com",
    "client_id": "1",
    "client_secret": CLIENT_SECRET,
}
GOOGLE = {"provider": "google", "client_id": "1", "client_secret": CLIENT_SECRET, "refresh_token": "1//secret"}


def complaint(settings: Settings, **options: Any) -> str:
    """Return what `manage.py check` says."""
    settings.MAILERS = {
        "default": {"BACKEND": "mailer.backend.OutboxBackend"},
        PRIMARY: {"BACKEND": BACKEND, "OPTIONS": SMTP | options},
    }
    [found] = [each for each in check_settings(None) if each.id == "mailer.E014"]
    assert CLIENT_SECRET not in found.msg
    return found.msg.removeprefix(f"MAILERS['{PRIMARY}']: ")


@pytest.mark.parametrize(
    ("oauth", "said"),
    [
        ({"provider": "yahoo"}, "'oauth' is for microsoft or google, not 'yahoo'."),
        ({}, "'oauth' is for microsoft or google, not None."),
        ("microsoft", "'oauth' must be a dictionary of texts, as in {'provider': 'microsoft', …}."),
        (MICROSOFT | {"tenant": 7}, "'oauth' must be a dictionary of texts, as in {'provider': 'microsoft', …}."),
        (
            MICROSOFT | {"secret": "x"},
            "oauth of microsoft has no option 'secret'; it has tenant, client_id, client_secret, authority, scope.",
        ),
        (
            MICROSOFT | {"client_secret": ""},
            "oauth of microsoft needs tenant, client_id, client_secret; 'client_secret' is missing.",
        ),
        (
            MICROSOFT | {"tenant": "https://shop.example/x"},
            "oauth of microsoft: 'tenant' must be the directory's id, or its domain, as in shop.onmicrosoft.com.",
        ),
        (
            MICROSOFT | {"authority": "http://login.example"},
            "oauth of microsoft: 'authority' must be a URL that begins with https://.",
        ),
        (
            {"provider": "google"},
            "oauth of google needs client_id, client_secret, refresh_token, or key_file; 'client_id' is missing.",
        ),
        (
            {"provider": "google", "key_file": "/no/such"},
            "oauth of google: 'key_file' cannot be read: No such file or directory.",
        ),
        (
            {"provider": "google", "key_file": __file__},
            "oauth of google: 'key_file' is not the JSON key of a service account.",
        ),
        (
            GOOGLE | {"key_file": "/x"},
            "oauth of google has no option 'client_id'; it has key_file.",
        ),
    ],
)
def test_check_says_what_is_wrong_with_oauth(oauth: Any, said: str, settings: Settings) -> None:
    assert complaint(settings, oauth=oauth) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"password": "x"}, "'oauth' takes the place of 'password': remove one of them."),
        ({"username": ""}, "'oauth' needs 'username', the mailbox that sends."),
        ({"username": "me\1auth=x"}, "'oauth' needs 'username', the mailbox that sends."),
        ({"use_tls": False}, "'oauth' needs 'use_tls' or 'use_ssl': a token is as good as a password."),
    ],
)
def test_check_says_what_oauth_needs(options: dict[str, Any], said: str, settings: Settings) -> None:
    assert complaint(settings, oauth=GOOGLE, **options) == said


@pytest.mark.parametrize(
    ("oauth", "module", "said"),
    [
        (MICROSOFT, "msal", "oauth of microsoft needs msal, which is not installed: ... [oauth-microsoft]"),
        (GOOGLE, "google", "oauth of google needs google.auth, which is not installed: ... [oauth-google]"),
    ],
)
def test_check_says_which_extra_is_missing(
    oauth: dict[str, str], module: str, said: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    assert complaint(settings, oauth=oauth) == said.replace("... ", "pip install django-postcommit")


@pytest.mark.parametrize("oauth", [MICROSOFT, GOOGLE])
def test_check_asks_no_server(oauth: dict[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("a connection"))
    settings.MAILERS = {PRIMARY: {"BACKEND": BACKEND, "OPTIONS": SMTP | {"oauth": oauth}}}

    assert mailers[PRIMARY]


def test_a_damaged_private_key_is_for_a_person(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text('{"type": "service_account", "private_key": "damaged", "client_email": "x", "token_uri": "x"}')

    with pytest.raises(NoToken, match="its key is damaged") as caught:
        tokens("a@shop.example", {"provider": "google", "key_file": str(file)}).current()

    assert caught.value.misconfigured


def test_a_value_that_is_no_text_is_refused_before_it_is_used() -> None:
    with pytest.raises(ImproperlyConfigured, match="dictionary of texts"):
        tokens("a@shop.example", {"provider": ["google"]})  # type: ignore[dict-item]
