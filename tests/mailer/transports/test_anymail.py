"""Providers' answers, from a real HTTP server that plays Postmark, through the real backend."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Literal

import pytest
from anymail.message import AnymailRecipientStatus
from django.core.mail import EmailMessage
from pytest_django import Settings

from mailer.outcomes import (
    Accepted,
    Interrupted,
    Outcome,
    OutcomeUnknown,
    PermanentRefusal,
    Phase,
    Stop,
    TransientRefusal,
    TransportDown,
)
from mailer.transports import anymail, connections
from mailer.transports.transmit import proceed
from tests.mailer.transports.sending import send

ACCEPTED = {"ErrorCode": 0, "Message": "OK", "MessageID": "abc-123", "To": "ann@example.com"}
Answer = tuple[int, dict[str, str], object] | Literal["silence"] | None


@pytest.fixture
def provider(settings: Settings) -> Iterator[Callable[[Answer], Outcome]]:
    """Send a message to a provider that gives this answer; None closes the connection without one."""
    answers: list[Answer] = []
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            requests.append(self.path)
            answer = answers.pop()
            if answer == "silence":
                time.sleep(1)
            if not isinstance(answer, tuple):
                self.connection.close()
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        options = {"server_token": "t", "api_url": f"http://127.0.0.1:{server.server_port}/"}
        settings.MAILERS = {"transport": {"BACKEND": "anymail.backends.postmark.EmailBackend", "OPTIONS": options}}

        def give(answer: Answer, guard: Callable[[], None] = proceed) -> Outcome:
            answers.append(answer)
            outcome = send(EmailMessage("s", "b", "shop@example.com", ["ann@example.com"]), guard=guard)
            assert len(requests) == (0 if isinstance(outcome, Interrupted) else 1)
            return outcome

        yield give
        connections.close_all()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, {}, ACCEPTED), Accepted("", "provider's message id abc-123", ("ann@example.com",))),
        ((401, {}, "bad token"), TransportDown("401", '"bad token"', Phase.LOGIN, misconfigured=True)),
        ((402, {}, "unpaid"), TransportDown("402", '"unpaid"', Phase.LOGIN, misconfigured=True)),
        ((403, {}, "sender"), TransportDown("403", '"sender"', Phase.LOGIN, misconfigured=True)),
        ((404, {}, "no such page"), PermanentRefusal("404", '"no such page"', Phase.MAIL)),
        ((408, {}, "slow"), OutcomeUnknown('"slow"', "408")),
        ((413, {}, "for ann@example.com"), PermanentRefusal("413", '"for a***@example.com"')),
        ((429, {"Retry-After": "90"}, "busy"), TransientRefusal("429", '"busy"', retry_after=timedelta(seconds=90))),
        ((429, {"Retry-After": "soon"}, "busy"), TransientRefusal("429", '"busy"')),
        (
            (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, ""),
            TransientRefusal("429", '""', retry_after=timedelta(0)),
        ),
        ((429, {"Retry-After": "9" * 30}, ""), TransientRefusal("429", '""', retry_after=timedelta(days=1))),
        (
            (429, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, ""),
            TransientRefusal("429", '""', retry_after=timedelta(days=1)),
        ),
        ((429, {}, "busy"), TransientRefusal("429", '"busy"')),
        ((200, {}, b"<html>Log in</html>"), OutcomeUnknown("<html>Log in</html>", "200")),
        ((202, {}, {"ok": True}), OutcomeUnknown('{"ok": true}', "202")),
        ((202, {}, b"<html>"), OutcomeUnknown("<html>", "202")),
        ((500, {}, "oops"), OutcomeUnknown('"oops"', "500")),
        ((501, {}, "oops"), OutcomeUnknown('"oops"', "501")),
        ((529, {}, "overloaded"), OutcomeUnknown('"overloaded"', "529")),
        ((502, {}, "gateway"), OutcomeUnknown('"gateway"', "502")),
        ((503, {}, "maintenance"), TransportDown("503", '"maintenance"')),
    ],
)
def test_each_http_answer_has_its_outcome(
    provider: Callable[[Answer], Outcome], answer: Answer, outcome: Outcome
) -> None:
    assert provider(answer) == outcome


@pytest.mark.parametrize("status", [200, 202, 299, 304])
def test_an_empty_answer_is_not_understood(provider: Callable[[Answer], Outcome], status: int) -> None:
    outcome = provider((status, {"Content-Length": "0"}, b""))

    assert isinstance(outcome, OutcomeUnknown)
    assert outcome.code == str(status)


def refusal(code: int, text: str) -> dict[str, object]:
    return {"ErrorCode": code, "Message": text}


ABOUT_THE_ACCOUNT = [
    (422, refusal(400, "The 'From' address you supplied is not a Sender Signature on your account")),
    (422, refusal(401, "The signature is not confirmed")),
    (422, refusal(405, "You ran out of credits")),
    (422, refusal(412, "While your account is pending approval, all recipients must share the domain")),
    (420, {"message": "Domain x.example sends too much"}),
    (400, {"message": "Domain x.example is not allowed to send: the domain is unverified"}),
    (400, {"code": "unauthorized", "message": "Your account is under validation"}),
    (400, {"message": "Unable to send email. Your SMTP account is not yet activated."}),
    (400, {"message": "account_under_validation"}),
]


@pytest.mark.parametrize(("status", "body"), ABOUT_THE_ACCOUNT)
def test_an_answer_about_the_account_is_like_a_refusal_of_mail(
    provider: Callable[[Answer], Outcome], status: int, body: dict[str, object]
) -> None:
    assert provider((status, {}, body)) == PermanentRefusal(str(status), json.dumps(body), Phase.MAIL)


@pytest.mark.parametrize(
    "body", [refusal(300, "Invalid 'ReplyTo' address"), refusal(1101, "The Template's 'TemplateId' does not exist")]
)
def test_an_answer_about_the_message_is_its_own(provider: Callable[[Answer], Outcome], body: dict[str, object]) -> None:
    assert provider((422, {}, body)) == PermanentRefusal("422", json.dumps(body), Phase.DOT)


def test_a_guard_stops_a_request(provider: Callable[..., Outcome]) -> None:
    def guard() -> None:
        raise Stop("its deadline passed")

    assert provider((200, {}, ACCEPTED), guard=guard) == Interrupted("its deadline passed")


def test_the_waits_for_a_provider_are_bounded(
    provider: Callable[..., Outcome], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "3"}
    monkeypatch.setattr(anymail, "LONGEST_ANSWER", 0.3)
    connection = connections.connect("transport")
    assert isinstance(connection, connections.Connection)

    assert connection.backend.timeout == (3.0, 0.3)  # type: ignore[attr-defined]
    connection.release()
    assert isinstance(provider("silence"), OutcomeUnknown)


@pytest.fixture
def amazon(settings: Settings) -> Iterator[Callable[[Answer], tuple[Outcome, int]]]:
    """Send a message to Amazon SES, which gives this answer. Return the outcome and the number of requests."""
    answers: list[Answer] = []
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            requests.append(self.path)
            if not isinstance(answers[0], tuple):
                self.connection.close()
                return
            status, headers, body = answers[0]
            octets = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(octets))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(octets)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        options = {
            "region_name": "eu-north-1",
            "aws_access_key_id": "x",
            "aws_secret_access_key": "x",
            "endpoint_url": f"http://127.0.0.1:{server.server_port}/",
        }
        backend = "anymail.backends.amazon_ses.EmailBackend"
        settings.MAILERS = {"transport": {"BACKEND": backend, "OPTIONS": {"client_params": options}}}

        def give(answer: Answer) -> tuple[Outcome, int]:
            answers.append(answer)
            outcome = send(EmailMessage("s", "b", "shop@example.com", ["ann@example.com"]))
            return outcome, len(requests)

        yield give
        connections.close_all()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "message", "expected", "phase"),
    [
        (400, "AccountSuspendedException", "Your account is suspended", PermanentRefusal, Phase.MAIL),
        (400, "AccountSendingPausedException", "Email sending is disabled", PermanentRefusal, Phase.MAIL),
        (400, "SendingPausedException", "paused", PermanentRefusal, Phase.MAIL),
        (400, "LimitExceededException", "too many", PermanentRefusal, Phase.MAIL),
        (400, "MailFromDomainNotVerifiedException", "MAIL FROM is not verified", PermanentRefusal, Phase.MAIL),
        (400, "MessageRejected", "Email address is not verified", PermanentRefusal, Phase.MAIL),
        (400, "MessageRejected", "Virus found", PermanentRefusal, Phase.DOT),
        (404, "NotFoundException", "Configuration set <x> does not exist", PermanentRefusal, Phase.MAIL),
        (400, "ThrottlingException", "Maximum sending rate exceeded", TransientRefusal, Phase.DOT),
        (429, "TooManyRequestsException", "Too many requests", TransientRefusal, Phase.DOT),
        (403, "SignatureDoesNotMatch", "wrong key", TransportDown, Phase.LOGIN),
        (503, "ServiceUnavailable", "later", TransportDown, Phase.CONNECT),
    ],
)
def test_amazons_answers_keep_their_code(
    amazon: Callable[[Answer], tuple[Outcome, int]], status: int, code: str, message: str, expected: type, phase: Phase
) -> None:
    outcome, requests = amazon((status, {"x-amzn-ErrorType": code}, {"message": message}))

    assert isinstance(outcome, expected)
    assert (outcome.code, getattr(outcome, "phase", None), requests) == (str(status), phase, 1)
    assert code in outcome.text
    assert message in outcome.text


@pytest.mark.parametrize("answer", [None, (500, {}, {"message": "oops"}), (504, {}, {"message": "oops"})])
def test_a_request_to_amazon_is_never_repeated_by_its_library(
    amazon: Callable[[Answer], tuple[Outcome, int]], answer: Answer
) -> None:
    """botocore would send it five times, and each may have been accepted."""
    outcome, requests = amazon(answer)

    assert isinstance(outcome, OutcomeUnknown)
    assert requests == 1


def test_a_provider_that_hangs_up_may_have_accepted(provider: Callable[[Answer], Outcome]) -> None:
    assert isinstance(provider(None), OutcomeUnknown)


def test_an_unreadable_answer_may_mean_acceptance(provider: Callable[[Answer], Outcome]) -> None:
    assert isinstance(provider((200, {}, ["surprise"])), OutcomeUnknown)


def test_a_provider_that_cannot_be_reached_has_not_accepted(settings: Settings) -> None:
    options = {"server_token": "t", "api_url": "http://127.0.0.1:1/"}
    settings.MAILERS = {"transport": {"BACKEND": "anymail.backends.postmark.EmailBackend", "OPTIONS": options}}

    outcome = send(EmailMessage("s", "b", "shop@example.com", ["ann@example.com"]))

    assert isinstance(outcome, TransportDown)


def test_an_invalid_address_is_refused_for_good(settings: Settings) -> None:
    settings.MAILERS = {"transport": {"BACKEND": "anymail.backends.test.EmailBackend"}}
    message = EmailMessage("s", "b", "shop@example.com", ["ann@example.com"])
    status = AnymailRecipientStatus(message_id=None, status="invalid")
    message.anymail_test_response = {"recipient_status": {"ann@example.com": status}}  # type: ignore[attr-defined]

    outcome = send(message)

    assert outcome == PermanentRefusal("", "recipient invalid", address_unknown=True)
