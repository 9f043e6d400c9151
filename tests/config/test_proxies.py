"""Only a proxy in TRUSTED_PROXIES may say that a request came over TLS."""

import pytest
import requests
from django.test import Client
from pytest_django import Settings

from tests.environment import new_directory
from tests.smtp_sink import Sink
from tests.stack import Stack


@pytest.mark.parametrize(("trusted", "status"), [("", 301), ("10.9.9.9", 301), ("127.0.0.0/8", 405)])
def test_only_a_trusted_proxy_sets_the_scheme(sink: Sink, trusted: str, status: int) -> None:
    production = {"DEBUG": "0", "SITE_URL": "https://localhost", "DEFAULT_FROM_EMAIL": "shop@example.com"}
    with Stack(new_directory("proxies"), sink, TRUSTED_PROXIES=trusted, **production) as stack:
        stack.start("web")

        def answer(**headers: str) -> int:
            url = f"http://127.0.0.1:{stack.web_port}/accounts/logout/"  # answers 405, but redirects plain HTTP first
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return requests.get(
                url, headers={"Host": "localhost", **names}, allow_redirects=False, timeout=10
            ).status_code

        assert answer(X_Forwarded_Proto="https") == status
        assert answer(X_Forwarded_Ssl="on") == 301  # no proxy sets these two, so the client did
        assert answer(X_Forwarded_Proto="http", X_Forwarded_Protocol="ssl") == 301


@pytest.mark.django_db
def test_the_proxy_may_ask_for_staff_without_tls(client: Client, settings: Settings) -> None:
    """A redirect would be an error for nginx's auth_request."""
    settings.SECURE_SSL_REDIRECT = True
    assert client.get("/accounts/staff/").status_code == 401
