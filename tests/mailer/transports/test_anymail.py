"""Providers' answers, from a real HTTP server that plays Postmark, through the real backend."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from anymail.message import AnymailRecipientStatus
from django.core.mail import EmailMessage
from pytest_django import Settings

from mailer.outcomes import Accepted, Outcome, OutcomeUnknown, PermanentRefusal, TransientRefusal, TransportDown
from mailer.transports import transmit

ACCEPTED = {"ErrorCode": 0, "Message": "OK", "MessageID": "abc-123", "To": "ann@example.com"}
Answer = tuple[int, dict[str, str], object] | None


@pytest.fixture
def provider(settings: Settings) -> Iterator[Callable[[Answer], Outcome]]:
    """Send a message to a provider that gives this answer; None closes the connection without one."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers.pop()
            if answer is None:
                self.connection.close()
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        options = {"server_token": "t", "api_url": f"http://127.0.0.1:{server.server_port}/"}
        settings.MAILERS = {"transport": {"BACKEND": "anymail.backends.postmark.EmailBackend", "OPTIONS": options}}

        def send(answer: Answer) -> Outcome:
            answers.append(answer)
            return transmit.transmit(EmailMessage("s", "b", "shop@example.com", ["ann@example.com"]))

        yield send
        transmit.close("transport")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, {}, ACCEPTED), Accepted("", "provider's message id abc-123", ("ann@example.com",))),
        ((401, {}, "bad token"), TransportDown("401", '"bad token"', misconfigured=True)),
        ((403, {}, "sender"), TransportDown("403", '"sender"', misconfigured=True)),
        ((408, {}, "slow"), OutcomeUnknown('"slow"', "408")),
        ((413, {}, "for ann@example.com"), PermanentRefusal("413", '"for a***@example.com"')),
        ((429, {"Retry-After": "90"}, "busy"), TransientRefusal("429", '"busy"', timedelta(seconds=90))),
        ((429, {"Retry-After": "soon"}, "busy"), TransientRefusal("429", '"busy"')),
        ((429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, ""), TransientRefusal("429", '""', timedelta(0))),
        ((429, {"Retry-After": "9" * 30}, ""), TransientRefusal("429", '""', timedelta(days=1))),
        ((429, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, ""), TransientRefusal("429", '""', timedelta(days=1))),
        ((500, {}, "oops"), TransientRefusal("500", '"oops"')),
        ((502, {}, "gateway"), OutcomeUnknown('"gateway"', "502")),
        ((503, {}, "maintenance"), TransportDown("503", '"maintenance"')),
    ],
)
def test_each_http_answer_has_its_outcome(
    provider: Callable[[Answer], Outcome], answer: Answer, outcome: Outcome
) -> None:
    assert provider(answer) == outcome


def test_a_provider_that_hangs_up_may_have_accepted(provider: Callable[[Answer], Outcome]) -> None:
    assert isinstance(provider(None), OutcomeUnknown)


def test_an_unreadable_answer_may_mean_acceptance(provider: Callable[[Answer], Outcome]) -> None:
    assert isinstance(provider((200, {}, ["surprise"])), OutcomeUnknown)


def test_a_provider_that_cannot_be_reached_has_not_accepted(settings: Settings) -> None:
    options = {"server_token": "t", "api_url": "http://127.0.0.1:1/"}
    settings.MAILERS = {"transport": {"BACKEND": "anymail.backends.postmark.EmailBackend", "OPTIONS": options}}

    outcome = transmit.transmit(EmailMessage("s", "b", "shop@example.com", ["ann@example.com"]))

    assert isinstance(outcome, TransportDown)


def test_an_invalid_address_is_refused_for_good(settings: Settings) -> None:
    settings.MAILERS = {"transport": {"BACKEND": "anymail.backends.test.EmailBackend"}}
    message = EmailMessage("s", "b", "shop@example.com", ["ann@example.com"])
    status = AnymailRecipientStatus(message_id=None, status="invalid")
    message.anymail_test_response = {"recipient_status": {"ann@example.com": status}}  # type: ignore[attr-defined]

    outcome = transmit.transmit(message)

    assert outcome == PermanentRefusal("", "recipient invalid", address_unknown=True)
