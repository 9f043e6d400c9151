"""Log in with a token: real SMTP over TLS, and a real token endpoint over HTTPS."""

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote_plus

import pytest
from django.core.mail import EmailMessage, mailers
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery.attribution import Fault, attribute_alone
from mailer.models import Circuit, DeliveryAttempt, State
from mailer.outcomes import Accepted, Phase, TransportDown
from mailer.routes import PRIMARY
from mailer.transports import connections
from mailer.transports.connections import Connection, connect
from tests.mailer.kinds import Plain
from tests.mailer.transports.oauth.servers import CLIENT_SECRET, ECHO, REFRESH_TOKEN, USER, Answer, Endpoint, MailServer
from tests.mailer.transports.raw_server import Peer, serving
from tests.mailer.transports.sending import send
from tests.mailer.worker import deliver

MAIL = EmailMessage("Hello", "Hello", USER, ["ann@example.com"])
Through = Callable[[str], None]


@pytest.fixture(autouse=True)
def nothing_secret_is_said(
    caplog: pytest.LogCaptureFixture, endpoint: Endpoint, private_key: str
) -> Iterator[Callable[[str], None]]:
    """Every log line of every test here, from DEBUG on, is searched for secrets. Returns the search."""
    caplog.set_level(logging.DEBUG)

    def search(text: str) -> None:
        said = [CLIENT_SECRET, REFRESH_TOKEN, private_key[60:100], *endpoint.issued]
        said += [quote_plus(each) for each in said] + [
            form["assertion"] for form in endpoint.asked if "assertion" in form
        ]
        assert not [secret for secret in said if secret in text]

    yield search
    search(caplog.text)


def refused(url: str, through: Through) -> TransportDown:
    through(url)
    down = connect(PRIMARY)
    assert isinstance(down, TransportDown), down
    assert down.phase is Phase.LOGIN
    return down


@pytest.mark.parametrize("length", [120, 1500])
def test_a_mail_is_sent_with_a_token(
    account: dict[str, str], length: int, endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    endpoint.token_length = length
    through(server.url(**account))

    outcome = send(MAIL)
    connections.close_all()

    assert isinstance(outcome, Accepted), outcome
    [login] = server.logins
    assert login.response == f"user={USER}\1auth=Bearer {endpoint.issued[0]}\1\1"
    assert len(login.lines) == (1 if length == 120 else 2)  # RFC 4954, 4
    assert len(login.lines[0]) <= 512


def test_microsoft_is_asked_for_mail_with_the_clients_secret(
    microsoft: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    through(server.url(**microsoft))
    send(MAIL)

    [form] = endpoint.asked
    assert form["grant_type"] == "client_credentials"
    assert (form["client_id"], form["client_secret"]) == ("client", CLIENT_SECRET)
    assert form["scope"] == "https://outlook.office365.com/.default"


def test_a_server_with_the_standard_mechanism_only_gets_that(
    google: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    server.mechanisms = "PLAIN OAUTHBEARER"
    through(server.url(**google))

    assert isinstance(send(MAIL), Accepted)
    port = server.place.partition(":")[2]
    assert server.logins[0].response == (
        f"n,a={USER},\1host=localhost\1port={port}\1auth=Bearer {endpoint.issued[0]}\1\1"
    )


def test_a_server_without_such_a_log_in_is_named(google: dict[str, str], server: MailServer, through: Through) -> None:
    server.mechanisms = "PLAIN LOGIN"

    down = refused(server.url(**google), through)

    assert down.misconfigured
    assert down.text == (f"{server.place}: no log-in with a token (XOAUTH2, OAUTHBEARER) is offered, only: PLAIN LOGIN")


@pytest.mark.parametrize(("mechanism", "ending"), [("XOAUTH2", b"\r\n"), ("OAUTHBEARER", b"AQ==\r\n")])
@pytest.mark.parametrize("explains", [True, False])
@pytest.mark.parametrize("hangs_up", [True, False])
def test_a_token_that_was_revoked_is_replaced_once(
    mechanism: str,
    ending: bytes,
    explains: bool,
    hangs_up: bool,
    google: dict[str, str],
    endpoint: Endpoint,
    server: MailServer,
    through: Through,
) -> None:
    server.mechanisms, server.explains, server.hangs_up = mechanism, explains, hangs_up
    server.is_valid = lambda token: token in endpoint.issued[1:]
    through(server.url(**google))

    assert isinstance(send(MAIL), Accepted)

    assert len(endpoint.asked) == 2
    first, second = server.logins
    assert first.lines[1:] == ([ending] if explains else [])
    assert endpoint.issued[1] in second.response


@pytest.mark.parametrize("hangs_up", [True, False])
@pytest.mark.parametrize("echoes", [True, False])
def test_a_new_token_that_is_refused_too_is_the_accounts_fault(
    echoes: bool,
    hangs_up: bool,
    google: dict[str, str],
    endpoint: Endpoint,
    server: MailServer,
    through: Through,
    nothing_secret_is_said: Callable[[str], None],
) -> None:
    server.echoes, server.hangs_up, server.is_valid = echoes, hangs_up, lambda token: False

    down = refused(server.url(**google), through)

    assert (down.code, down.misconfigured, len(endpoint.asked)) == ("535", True, 2)
    assert down.text.startswith("5.7.3 Authentication unsuccessful")
    assert attribute_alone(down).fault is Fault.ACCOUNT
    nothing_secret_is_said(down.text)


def test_a_server_that_has_no_time_is_no_reason_for_a_new_token(
    google: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    server.is_valid, server.refusal = lambda token: False, "454 4.7.0 Temporary authentication failure"

    down = refused(server.url(**google), through)

    assert (down.code, down.misconfigured, len(endpoint.asked)) == ("454", False, 1)


def test_an_open_session_outlives_its_token(
    google: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    endpoint.more = {"expires_in": 0}
    through(server.url(**google))

    assert isinstance(send(MAIL), Accepted)
    assert isinstance(send(MAIL), Accepted)
    assert (len(server.logins), len(endpoint.asked)) == (1, 1)

    connections.close_all()
    assert isinstance(send(MAIL), Accepted)
    assert (len(server.logins), len(endpoint.asked)) == (2, 2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer(401, {"error": "invalid_client", "error_description": "AADSTS7000222: The secret has expired."}),
            "refuses a token (invalid_client): check client_id and client_secret; a secret that has expired must be replaced "
            "by a new one. AADSTS7000222: The secret has expired.",
        ),
        (Answer(400, {"error": "invalid_grant"}), "check the user; if the key or the refresh token was revoked"),
        (Answer(401, {"error": "unauthorized_client"}), "an administrator must allow this client"),
        (Answer(400, {"error": "odd", "error_description": ECHO}), "(odd): check the options of oauth"),
        (Answer(400, {"error": {"code": 400}}), "check the options of oauth"),
        (Answer(400, {"error": ECHO, "error_description": ["x"]}), "refuses a token ("),
    ],
)
def test_a_refusal_of_the_endpoint_says_what_to_do(
    answer: Answer,
    words: str,
    google: dict[str, str],
    endpoint: Endpoint,
    server: MailServer,
    through: Through,
    nothing_secret_is_said: Callable[[str], None],
) -> None:
    endpoint.answers.append(replace(answer))

    down = refused(server.url(**google), through)

    assert down.misconfigured
    assert words in down.text
    assert down.text.startswith(f"localhost:{endpoint.port} ")
    assert attribute_alone(down).fault is Fault.ACCOUNT
    assert len(endpoint.asked) == 1
    assert not server.logins
    nothing_secret_is_said(down.text)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, {"error": "too_many_requests"}, {"Retry-After": "30"}),
        Answer(503, "<html>too many requests, throttled</html>"),
        Answer(500, {"error": "server_error"}),
        Answer(400, {"error": "temporarily_unavailable"}),
        Answer(302, "", {"Location": "https://localhost:1/"}),
        Answer(403, "<html>firewall</html>"),
        Answer(200, "<html>a hotel's log-in page</html>"),
        Answer(200, "[" * 30_000),
        Answer(200, "x" * 40_000),
        Answer(200, {"token_type": "Bearer", "expires_in": 3600}),
        Answer(200, {"access_token": "a\1b", "expires_in": 3600}),
        Answer(200, {"access_token": 7}),
        Answer(200, {"access_token": "secret-in-a-broken-answer", "expires_in": "soon"}),
        Answer(200, '{"access_token": "secret-in-a-broken-answer'),
        lambda: None,
    ],
)
def test_an_endpoint_that_does_not_answer_in_order_is_away_for_now(
    answer: Any, google: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    endpoint.answers.append(answer)

    down = refused(server.url(**google), through)

    assert not down.misconfigured
    assert down.text.startswith(f"localhost:{endpoint.port} gives no token now")
    assert "secret-in" not in down.text
    assert attribute_alone(down).fault is Fault.TRANSPORT
    assert len(endpoint.asked) == 1  # no library repeats it


@pytest.mark.parametrize(
    "more", [{"expires_in": "3599"}, {}, {"expires_in": 10**15}, {"expires_in": -5}, {"scope": 5, "id_token": "x"}]
)
def test_an_odd_answer_with_a_token_is_enough(
    more: dict[str, Any], account: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    endpoint.more = more
    through(server.url(**account))

    assert isinstance(send(MAIL), Accepted)


@pytest.mark.parametrize(
    ("answer", "misconfigured"), [(Answer(400, {"error": "invalid_grant"}), True), (Answer(503), False)]
)
def test_every_kind_of_account_is_asked_for_once_and_judged_alike(
    answer: Answer,
    misconfigured: bool,
    account: dict[str, str],
    endpoint: Endpoint,
    server: MailServer,
    through: Through,
) -> None:
    endpoint.answers.append(replace(answer))

    down = refused(server.url(**account), through)

    assert down.misconfigured is misconfigured
    assert down.text.startswith(f"localhost:{endpoint.port} ")
    assert len(endpoint.asked) == 1


def test_a_silent_endpoint_holds_no_worker(
    account: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through, settings: Settings
) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "0.3"}
    endpoint.answers.append(lambda: time.sleep(1))
    began = time.monotonic()

    down = refused(server.url(**account), through)

    assert time.monotonic() - began < 1
    assert (down.text, down.misconfigured) == (
        f"localhost:{endpoint.port} gives no token now: no answer in time",
        False,
    )


def test_an_endpoint_that_drips_holds_no_worker(
    google: dict[str, str], server: MailServer, tls: ssl.SSLContext, through: Through, settings: Settings
) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "0.3"}

    def talk(peer: Peer) -> None:
        peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.say(b" " * 300, pieces=1, pause=0.02)

    with serving(talk, context=tls) as place:
        down = refused(server.url(**google | {"token_uri": f"https://{place}/"}), through)

    assert down.text == f"{place} gives no token now: no answer in time"


@pytest.mark.parametrize("field", ["authority", "token_uri"])
def test_a_secret_goes_only_to_a_trusted_address(
    field: str,
    microsoft: dict[str, str],
    google: dict[str, str],
    server: MailServer,
    through: Through,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = microsoft if field == "authority" else google
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")

    down = refused(server.url(**account), through)

    assert down.misconfigured
    assert "has no certificate that this machine trusts" in down.text


def test_a_secret_is_not_sent_without_https(google: dict[str, str], server: MailServer, through: Through) -> None:
    down = refused(server.url(**google | {"token_uri": "http://localhost:1/"}), through)

    assert down.misconfigured
    assert "must begin with https://" in down.text


def test_an_account_without_tokens_waits_for_a_person_and_its_mail_too(
    user: User,
    microsoft: dict[str, str],
    endpoint: Endpoint,
    server: MailServer,
    through: Through,
    nothing_secret_is_said: Callable[[str], None],
) -> None:
    through(server.url(**microsoft))
    endpoint.answers.append(Answer(401, {"error": "invalid_client", "error_description": ECHO}))

    message = deliver(outbox.enqueue(Plain(user)))

    assert message.state == State.QUEUED
    assert not DeliveryAttempt.objects.exists()
    circuit = Circuit.objects.get()
    assert circuit.needs_person
    assert "check client_id and client_secret" in circuit.reason
    nothing_secret_is_said(circuit.reason)


def test_a_mail_of_the_outbox_is_sent_with_a_token(
    user: User, microsoft: dict[str, str], server: MailServer, through: Through
) -> None:
    through(server.url(**microsoft))

    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT


def test_mail_that_bypasses_the_outbox_is_sent_with_a_token_too(
    google: dict[str, str], endpoint: Endpoint, server: MailServer, through: Through
) -> None:
    server.is_valid = lambda token: token in endpoint.issued[1:]
    through(server.url(**google))

    assert mailers[PRIMARY].send_messages([MAIL]) == 1
    assert len(endpoint.asked) == 2


def test_nothing_that_is_printed_shows_a_secret(
    account: dict[str, str],
    endpoint: Endpoint,
    server: MailServer,
    through: Through,
    nothing_secret_is_said: Callable[[str], None],
) -> None:
    through(server.url(**account))
    send(MAIL)
    backend: Any = mailers[PRIMARY]

    connection = connect(PRIMARY)
    assert isinstance(connection, Connection)
    with connection:
        printed = [connection, connection.backend, backend.tokens, backend.tokens._provider, backend.tokens.current()]
    nothing_secret_is_said(repr(printed))


@pytest.mark.django_db
def test_django_hides_the_options_in_its_error_pages(microsoft: dict[str, str], server: MailServer) -> None:
    from django.views.debug import SafeExceptionReporterFilter

    shown = SafeExceptionReporterFilter().cleanse_setting("MAILERS", {"x": email_url(server.url(**microsoft))})

    assert CLIENT_SECRET not in str(shown)
