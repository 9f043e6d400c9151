"""The token of a message is in the request to each provider that can report it, and stops no mail to the others."""

from collections.abc import Callable
from typing import Any

import pytest
import requests
from botocore.client import BaseClient
from botocore.exceptions import EndpointConnectionError
from django.core.mail import EmailMessage

from config.environment import PROVIDERS
from mailer.outcomes import Busy, Outcome, PermanentRefusal, TransportDown
from mailer.routes import PRIMARY
from mailer.transports import connections, verp
from mailer.transports.transmit import transmit

pytestmark = pytest.mark.filterwarnings("ignore:django-anymail has dropped official support for SendGrid")

URLS = {
    "amazon_ses": "ses:?region_name=eu-north-1&aws_access_key_id=x&aws_secret_access_key=x",
    "brevo": "brevo:?api_key=k",
    "mailersend": "mailersend:?api_token=k",
    "mailgun": "mailgun:?api_key=k&sender_domain=example.com",
    "mailjet": "mailjet:?api_key=k&secret_key=s",
    "mailtrap": "mailtrap:?api_token=k",
    "mandrill": "mandrill:?api_key=k",
    "postal": "postal:?api_key=k&api_url=https%3A%2F%2Fpostal.example.com",
    "postmark": "postmark:?server_token=k",
    "resend": "resend:?api_key=k",
    "scaleway": "scaleway:?secret_key=k&project_id=p",
    "sendgrid": "sendgrid:?api_key=k",
    "sparkpost": "sparkpost:?api_key=k",
    "unisender_go": "unisender_go:?api_key=k&api_url=https%3A%2F%2Fgo1.example.com%2F",
}
WITHOUT = {"mailersend", "postal"}
NUMBER = 7


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to providers, none of which answers."""
    found: list[str] = []

    def request(session: Any, method: str, url: str, **parameters: Any) -> Any:
        found.append(repr(parameters))
        raise requests.ConnectionError

    def call(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        found.append(repr(parameters))
        raise EndpointConnectionError(endpoint_url="https://email.eu-north-1.amazonaws.com")

    monkeypatch.setattr(requests.Session, "request", request)
    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    return found


def transmit_once(message: EmailMessage) -> Outcome:
    connection = connections.connect(PRIMARY)
    assert not isinstance(connection, Busy | TransportDown)
    return transmit(connection, message, number=NUMBER)


def test_every_provider_is_tried() -> None:
    assert set(URLS) == PROVIDERS


@pytest.mark.parametrize("provider", sorted(URLS))
@pytest.mark.parametrize("metadata", [None, {"order": "o-4711"}])
def test_the_token_travels_once_beside_other_metadata(
    through: Callable[[str], None], posted: list[str], provider: str, metadata: dict[str, str] | None
) -> None:
    through(URLS[provider])
    message = EmailMessage("s", "b", "shop@example.com", ["ann@example.com"])
    if metadata and provider not in WITHOUT:
        message.metadata = metadata  # type: ignore[attr-defined]

    for _ in range(2):  # the second one is a retry
        assert not isinstance(transmit_once(message), PermanentRefusal)

    assert len(posted) == 2
    for request in posted:
        assert request.count(verp.token(NUMBER)) == (0 if provider in WITHOUT else 1)
        assert ("o-4711" in request) == (metadata is not None and provider not in WITHOUT)
    assert metadata in (None, {"order": "o-4711"})  # the caller's own dictionary is not changed
