"""Servers that are silent, drip, read slowly or never end: what may last, and what is certain when it does not."""

import datetime
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.mail import EmailMessage
from pytest_django import Settings

from mailer.outcomes import Accepted, Outcome, OutcomeUnknown, Phase, TransportDown
from mailer.transports import client, connections
from tests.config.test_redis_url import make_certificate
from tests.mailer.transports.raw_server import Peer, serving
from tests.mailer.transports.sending import send

SILENCE = 0.4
"""Seconds: POSTCOMMIT_SMTP_TIMEOUT in these tests."""
REPLY = client.TIMES_SILENCE * SILENCE
NEVER = 30.0
BUSY = 8
"""Seconds that a busy machine may take for anything. Without its bound each of these waits would last for NEVER."""


@pytest.fixture(autouse=True)
def impatient(settings: Settings) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": str(SILENCE)}


@pytest.fixture
def answer(through: Callable[[str], None]) -> Callable[..., tuple[Outcome, float]]:
    """Send a message of so many octets to a server that talks like this. Return the outcome and its duration."""

    def give(talk: Callable[[Peer], object], *, octets: int = 0, buffer: int = 0) -> tuple[Outcome, float]:
        with serving(talk, buffer=buffer) as place:
            through(f"smtp://{place}")
            began = time.monotonic()
            outcome = send(EmailMessage("x", "0123456789" * (octets // 10), "us@example.com", ["ann@example.com"]))
            took = time.monotonic() - began
            connections.close_all()
        return outcome, took

    return give


COMMANDS = {"EHLO": Phase.CONNECT, "MAIL": Phase.MAIL, "RCPT": Phase.RCPT, "DATA": Phase.DATA}


def wait(peer: Peer) -> None:
    peer.connection.settimeout(NEVER)
    while peer.connection.recv(65_536):
        pass


def drip(peer: Peer) -> None:
    peer.say(b"2" * 100, pieces=1, pause=SILENCE / 3)


def talk_for_ever(peer: Peer) -> None:
    while True:
        peer.say(b"250-x\r\n" * 1000)


@pytest.mark.parametrize("fault", [wait, drip, talk_for_ever])
@pytest.mark.parametrize("command", ["greeting", *COMMANDS])
def test_before_the_dot_a_reply_without_an_end_is_certain_and_bounded(
    answer: Callable[..., tuple[Outcome, float]], command: str, fault: Callable[[Peer], None]
) -> None:
    def talk(peer: Peer) -> None:
        if command != "greeting":
            peer.greet(command.encode())
        fault(peer)

    outcome, took = answer(talk)

    assert isinstance(outcome, TransportDown)
    assert outcome.phase == COMMANDS.get(command, Phase.CONNECT)
    assert took < REPLY + BUSY
    is_endless = "the reply is too long" in outcome.text  # it stops at some octets, long before the time is over
    assert is_endless == (fault is talk_for_ever)


def test_a_reply_that_drips_to_its_end_in_time_counts(answer: Callable[..., tuple[Outcome, float]]) -> None:
    def talk(peer: Peer) -> None:
        peer.greet(b"MAIL")
        peer.say(b"250 ok\r\n", pieces=1, pause=SILENCE / 4)
        peer.converse(b"nothing")

    outcome, took = answer(talk)

    assert isinstance(outcome, Accepted)
    assert took > SILENCE


@pytest.mark.parametrize("pieces", [0, 1])
def test_after_the_dot_the_answer_may_take_minutes(answer: Callable[..., tuple[Outcome, float]], pieces: int) -> None:
    """Here 5 times the silence, whole or dripping."""

    def talk(peer: Peer) -> None:
        peer.greet(b".")
        time.sleep(0 if pieces else 5 * SILENCE)
        peer.say(b"250 2.0.0 ok\r\n", pieces=pieces, pause=5 * SILENCE / 12 if pieces else 0)

    outcome, took = answer(talk)

    assert outcome == Accepted("250", "2.0.0 ok", ("ann@example.com",))
    assert took > 5 * SILENCE


@pytest.mark.parametrize("fault", [wait, drip, talk_for_ever])
def test_after_the_dot_the_wait_is_bounded_too(
    answer: Callable[..., tuple[Outcome, float]], fault: Callable[[Peer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST_ANSWER_TO_DOT", datetime.timedelta(seconds=1))

    def talk(peer: Peer) -> None:
        peer.greet(b".")
        fault(peer)

    outcome, took = answer(talk)

    assert isinstance(outcome, OutcomeUnknown)
    assert took < 1 + BUSY


def read_slowly(peer: Peer, *, rate: float) -> None:
    """Read a body at so many octets a second, then answer."""
    peer.say(b"220 x\r\n")
    peer.converse(b"DATA")
    peer.say(b"354 go on\r\n")
    tail = b""
    while not tail.endswith(b"\r\n.\r\n"):
        got = peer.connection.recv(8_192)
        if not got:
            return
        tail = (tail + got)[-5:]
        time.sleep(len(got) / rate)
    peer.say(b"250 2.0.0 ok\r\n")
    peer.converse(b"nothing")


def test_a_large_message_over_a_slow_line_may_last(answer: Callable[..., tuple[Outcome, float]]) -> None:
    outcome, took = answer(lambda peer: read_slowly(peer, rate=150_000), octets=600_000, buffer=16_384)

    assert isinstance(outcome, Accepted)
    assert took > REPLY + 1  # more than any single wait


def test_a_server_that_reads_too_slowly_is_left_before_the_dot(
    answer: Callable[..., tuple[Outcome, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SLOWEST_RATE", 2_000_000)

    outcome, took = answer(lambda peer: read_slowly(peer, rate=200_000), octets=1_200_000, buffer=16_384)

    assert isinstance(outcome, TransportDown)
    assert outcome.phase == Phase.DATA
    assert took < 1_200_000 / 200_000


def test_a_server_that_stops_reading_is_left_before_the_dot(answer: Callable[..., tuple[Outcome, float]]) -> None:
    def talk(peer: Peer) -> None:
        peer.greet(b"DATA")
        peer.say(b"354 go on\r\n")
        time.sleep(REPLY + 2)

    outcome, took = answer(talk, octets=3_000_000, buffer=16_384)

    assert isinstance(outcome, TransportDown)
    assert outcome.phase == Phase.DATA
    assert took < REPLY + BUSY


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def encrypted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a server whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize(("fault", "expected"), [(read_slowly, Accepted), (wait, TransportDown), (drip, TransportDown)])
def test_the_same_bounds_hold_with_tls(
    fault: Callable[..., None], expected: type, encrypted: ssl.SSLContext, through: Callable[[str], None]
) -> None:
    def talk(peer: Peer) -> None:
        if fault is read_slowly:
            return read_slowly(peer, rate=150_000)
        peer.greet(b"DATA")
        return fault(peer)

    with serving(talk, context=encrypted, buffer=16_384) as place:
        through(f"smtps://{place}")
        began = time.monotonic()
        outcome = send(EmailMessage("x", "0123456789" * 60_000, "us@example.com", ["ann@example.com"]))
        took = time.monotonic() - began
        connections.close_all()

    assert isinstance(outcome, expected), outcome
    assert took > REPLY + 1 if expected is Accepted else took < REPLY + BUSY


def test_an_untrusted_certificate_is_for_a_person(certificate: Path, through: Callable[[str], None]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(lambda peer: peer.greet(b"nothing"), context=context) as place:
        through(f"smtps://{place}")
        outcome = send(EmailMessage("x", "x", "us@example.com", ["ann@example.com"]))

    assert isinstance(outcome, TransportDown)
    assert (outcome.phase, outcome.misconfigured) == (Phase.CONNECT, True)
    assert "certificate verify failed" in outcome.text


def test_a_tls_handshake_that_does_not_end_is_bounded(through: Callable[[str], None]) -> None:
    with serving(wait) as place:
        through(f"smtps://{place}")
        began = time.monotonic()
        outcome = send(EmailMessage("x", "x", "us@example.com", ["ann@example.com"]))

    assert isinstance(outcome, TransportDown)
    assert (outcome.phase, outcome.misconfigured) == (Phase.CONNECT, False)
    assert time.monotonic() - began < REPLY + BUSY
