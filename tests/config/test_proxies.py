"""Only a proxy in TRUSTED_PROXIES may say that a request came over TLS."""

import pytest
import requests

from tests.environment import new_directory
from tests.smtp_sink import Sink
from tests.stack import Stack


@pytest.mark.parametrize(("trusted", "status"), [("", 301), ("10.9.9.9", 301), ("127.0.0.0/8", 405)])
def test_only_a_trusted_proxy_sets_the_scheme(sink: Sink, trusted: str, status: int) -> None:
    production = {"DEBUG": "0", "SITE_URL": "https://localhost", "DEFAULT_FROM_EMAIL": "shop@example.com"}
    with Stack(new_directory("proxies"), sink, TRUSTED_PROXIES=trusted, **production) as stack:
        stack.start("web")
        answer = requests.get(
            f"http://127.0.0.1:{stack.web_port}/accounts/logout/",  # answers 405, but redirects plain HTTP first
            headers={"Host": "localhost", "X-Forwarded-Proto": "https"},
            allow_redirects=False,
            timeout=10,
        )

    assert answer.status_code == status
