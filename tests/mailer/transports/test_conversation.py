"""What a server says, and when: every reply keeps its phase and its code, and what each recipient was told is kept."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from django.core.mail import EmailMessage
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
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
from mailer.transports import client, connections
from tests.mailer.transports.raw_server import Peer, serving
from tests.mailer.transports.sending import send
from tests.smtp_sink import CUT, HANG, Sink
from tests.smtp_sink import Phase as Scripted

ANN, BOB, CID, DEE = "ann@example.com", "bob@example.com", "cid@example.com", "dee@example.com"
PHASES: dict[Scripted, Phase] = {"MAIL": Phase.MAIL, "RCPT": Phase.RCPT, "DATA": Phase.DATA, "BODY": Phase.DOT}


@pytest.fixture(params=["with PIPELINING", "one command at a time"])
def sink(request: pytest.FixtureRequest) -> Iterator[Sink]:
    with Sink(without={"PIPELINING"} if request.param == "one command at a time" else ()) as sink:
        yield sink


def to(*recipients: str) -> EmailMessage:
    return EmailMessage("Hello", "Hello", "us@example.com", recipients)


UNKNOWN = PermanentRefusal("550", "5.1.1 no such user", Phase.RCPT, address_unknown=True)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("code", ["421", "432", "450", "451", "452", "454", "455", "471"])
def test_any_4xx_after_mail_is_a_refusal_for_now(smtp: Sink, phase: Scripted, code: str) -> None:
    smtp.script.always[phase] = f"{code} 4.7.0 later"

    assert send(to(ANN)) == TransientRefusal(code, "4.7.0 later", PHASES[phase])


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("code", ["500", "503", "521", "530", "550", "552", "553", "554", "556"])
def test_any_5xx_after_mail_is_a_refusal_for_good(smtp: Sink, phase: Scripted, code: str) -> None:
    smtp.script.always[phase] = f"{code} 5.7.1 never"

    assert send(to(ANN)) == PermanentRefusal(code, "5.7.1 never", PHASES[phase])


@pytest.mark.parametrize("code", ["200", "250", "251", "252", "299"])
def test_any_2xx_after_the_dot_is_acceptance(smtp: Sink, code: str) -> None:
    smtp.script.always["BODY"] = f"{code} fine"

    assert send(to(ANN)) == Accepted(code, "fine", (ANN,))


@pytest.mark.parametrize("reply", ["150 x", "354 x", "600 x", "hello", "", "2 50"])
def test_a_reply_of_another_protocol_is_unknown_only_after_the_dot(smtp: Sink, reply: str) -> None:
    for phase in ("MAIL", "RCPT", "BODY"):
        smtp.script.always = {phase: reply}
        outcome = send(to(ANN))
        assert isinstance(outcome, OutcomeUnknown if phase == "BODY" else TransportDown)


@pytest.mark.parametrize("fault", [CUT, HANG])
@pytest.mark.parametrize("phase", PHASES)
def test_a_break_is_unknown_only_after_the_dot(smtp: Sink, settings: Settings, phase: Scripted, fault: str) -> None:
    if fault == HANG and phase == "BODY":
        return  # ten minutes: see test_bounds.py
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "0.3"}
    smtp.script.always[phase] = fault

    outcome = send(to(ANN))

    if phase == "BODY":
        assert isinstance(outcome, OutcomeUnknown)
    else:
        assert isinstance(outcome, TransportDown)
        assert outcome.phase == PHASES[phase]


REFUSALS_OF_RECIPIENT = {
    "550 5.1.1 no such user": True,
    "550 5.1.10 RESOLVER.ADR.RecipientNotFound": True,
    "550-5.1.1 The account that you tried to reach\r\n550 5.1.1 does not exist, see https://x.example/?p=No": True,
    "554 5.1.1 <ann@example.com>: user unknown": True,
    "550 5.1.1 <Ann@EXAMPLE.com>... User unknown": True,
    "550 5.1.1 ann@example.com.": True,
    "550 5.1.1 <us@example.com>: Sender address rejected": False,
    "550 5.1.1 <ann@example.com>: Sender address rejected": False,
    "550 5.1.1 <hello@other.example>: unknown": False,
    "550 no such user": False,
    "551 User not local": False,
    "553 sorry, no mailbox here by that name (#5.1.1)": False,
    "550 5.2.1 disabled": False,
    "550 5.7.1 <ann@example.com>: relaying denied": False,
    "450 4.1.1 unverified address": False,
}


@pytest.mark.parametrize(("reply", "is_unknown"), REFUSALS_OF_RECIPIENT.items())
def test_an_address_is_unknown_only_by_its_own_status(smtp: Sink, reply: str, is_unknown: bool) -> None:
    smtp.script.always["RCPT"] = reply

    assert getattr(send(to(ANN)), "address_unknown", False) is is_unknown


@pytest.mark.parametrize("phase", ["MAIL", "DATA", "BODY"])
def test_no_address_is_unknown_by_an_answer_to_another_command(smtp: Sink, phase: Scripted) -> None:
    smtp.script.always[phase] = "550 5.1.1 no such user"

    assert send(to(ANN)) == PermanentRefusal("550", "5.1.1 no such user", PHASES[phase])


LATER = [("DATA", "451 4.3.0 later"), ("BODY", "552 5.3.4 too big"), ("DATA", CUT), ("BODY", CUT)]


@pytest.mark.parametrize(("phase", "fault"), LATER)
def test_what_recipients_were_told_outlives_a_later_fault(smtp: Sink, phase: Scripted, fault: str) -> None:
    smtp.script.to = {BOB: "550 5.1.1 no such user", CID: "451 4.7.1 greylisted"}
    smtp.script.always[phase] = fault

    outcome = send(to(ANN, BOB, CID))

    assert not isinstance(outcome, Accepted)
    assert outcome.refused == {BOB: UNKNOWN}


def test_too_many_errors_after_unknown_recipients_keeps_them(smtp: Sink) -> None:
    smtp.script.to = {ANN: "550 5.1.1 no such user", BOB: "550 5.1.1 no such user", CID: "421 4.7.0 too many errors"}

    outcome = send(to(DEE, ANN, BOB, CID))

    refused = {ANN: UNKNOWN, BOB: UNKNOWN}
    assert outcome == TransientRefusal("421", "4.7.0 too many errors", Phase.RCPT, refused=refused)
    assert smtp.received == []


def test_a_cut_after_unknown_recipients_keeps_them(smtp: Sink) -> None:
    smtp.script.to = {ANN: "550 5.1.1 no such user", BOB: CUT}

    outcome = send(to(ANN, BOB, CID))

    assert isinstance(outcome, TransportDown)
    assert (outcome.phase, outcome.refused) == (Phase.RCPT, {ANN: UNKNOWN})


NO_MORE = [
    "452 4.5.3 Error: too many recipients",
    "452 too many recipients",
    "452 try again",
    "451 4.5.3 too many",
    "552 too many recipients",
    "550 5.5.3 too many recipients",
]


@pytest.mark.parametrize("reply", NO_MORE)
def test_a_limit_of_recipients_sends_to_the_others_now(smtp: Sink, reply: str) -> None:
    """RFC 5321, 4.5.3.1.10. The rest gets the same answer, or was not asked about: it would come again."""
    smtp.script.to = {CID: reply, DEE: reply}

    outcome = send(to(ANN, BOB, CID, DEE))

    assert isinstance(outcome, Accepted)
    assert outcome.recipients == (ANN, BOB)
    code, text = reply.split(" ", 1)
    assert outcome.refused == dict.fromkeys([CID, DEE], TransientRefusal(code, text, Phase.RCPT))
    assert [received.recipients for received in smtp.received] == [[ANN, BOB]]


@pytest.mark.parametrize(
    "reply", ["452 4.2.2 mailbox full", "452 4.3.1 disk full", "451 later", "552 5.2.2 over quota"]
)
def test_a_refusal_of_one_recipient_does_not_end_the_list(smtp: Sink, reply: str) -> None:
    smtp.script.to = {BOB: reply}

    outcome = send(to(ANN, BOB, CID))

    assert isinstance(outcome, Accepted)
    assert outcome.recipients == (ANN, CID)
    assert list(outcome.refused) == [BOB]


def test_a_limit_of_recipients_at_the_first_one_is_a_refusal(smtp: Sink) -> None:
    smtp.script.to = {ANN: "452 4.5.3 too many recipients"}

    assert isinstance(send(to(ANN, BOB)), Accepted)
    assert isinstance(send(to(ANN)), TransientRefusal)


@pytest.mark.parametrize("call", [1, 2])
def test_a_guard_stops_the_transmission_before_mail_and_before_the_dot(smtp: Sink, call: int) -> None:
    calls = 0

    def guard() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop("its deadline passed")

    smtp.script.to = {BOB: "550 5.1.1 no such user"}
    outcome = send(to(ANN, BOB), guard=guard)

    assert outcome == Interrupted("its deadline passed", refused={BOB: UNKNOWN} if call == 2 else {})
    assert smtp.received == []
    assert isinstance(send(to(ANN)), Accepted)
    assert len(smtp.received) == 1


def test_the_last_guard_is_called_when_only_the_dot_is_missing(through: Callable[[str], None]) -> None:
    peers: list[Peer] = []
    heard: list[bytes] = []

    def talk(peer: Peer) -> None:
        peers.append(peer)
        peer.greet(b".")
        peer.say(b"250 ok\r\n")
        peer.converse(b"nothing")

    def guard() -> None:
        heard.append(peers[0].body)

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome = send(EmailMessage("x", "line\n" * 10_000 + ".\nend\n", "us@example.com", [ANN]), guard=guard)
        connections.close_all()

    assert isinstance(outcome, Accepted)
    assert (heard[0], peers[0].body.endswith(b"line\r\n..\r\nend\r\n")) == (b"", True)


def test_an_unexpected_error_of_the_guard_sends_nothing(smtp: Sink) -> None:
    def guard() -> None:
        raise LookupError

    assert isinstance(send(to(ANN), guard=guard), TransientRefusal)
    assert smtp.received == []


def test_a_refusal_in_the_middle_of_the_body_is_heard(through: Callable[[str], None]) -> None:
    """A server that takes no such large message may say so and hang up."""

    def talk(peer: Peer) -> None:
        peer.greet(b"DATA")
        peer.say(b"354 go on\r\n")
        peer.connection.recv(1000)
        peer.say(b"552 5.3.4 too big\r\n")
        peer.connection.close()

    with serving(talk, buffer=16_384) as place:
        through(f"smtp://{place}")
        outcome = send(EmailMessage("x", "0123456789" * 300_000, "us@example.com", [ANN]))

    assert outcome == PermanentRefusal("552", "5.3.4 too big", Phase.DATA)


quick = hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(octet=st.integers(0, 1300), reset=st.booleans(), pipelining=st.booleans())
def test_a_break_at_any_octet_is_certain_until_the_dot(
    through: Callable[[str], None], octet: int, *, reset: bool, pipelining: bool
) -> None:
    """The server reads so many octets, answers what is complete in them, and hangs up."""
    got = b""

    def talk(peer: Peer) -> None:
        nonlocal got
        peer.say(b"220 x\r\n")
        in_body, line = False, b""
        while len(got) < octet and (new := peer.lines.read(1)):
            got, line = got + new, line + new
            if not line.endswith(b"\r\n"):
                continue
            if in_body and line != b".\r\n":
                line = b""
            elif in_body:
                break
            elif line:
                in_body, extension = line == b"DATA\r\n", b"250-x\r\n" * (pipelining and line.startswith(b"ehlo"))
                peer.say(
                    b"354 x\r\n" if in_body else extension + (b"250 PIPELINING\r\n" if extension else b"250 x\r\n")
                )
                line = b""
        if reset:
            peer.reset()

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome: Outcome = send(EmailMessage("x", "y" * 500, "us@example.com", [ANN]))
        connections._pools.clear()

    if got.endswith(b"\r\n.\r\n"):
        assert isinstance(outcome, OutcomeUnknown)
    else:
        # So small a message is handed to the system at once, with its dot.
        assert isinstance(outcome, (TransportDown, OutcomeUnknown) if b"DATA\r\n" in got else TransportDown)


@quick
@given(octet=st.integers(1, 60_000), reset=st.booleans(), size=st.sampled_from([100_000, 650_000]))
def test_a_break_in_a_large_body_is_certain(
    through: Callable[[str], None], octet: int, size: int, *, reset: bool
) -> None:
    """Also if our system can hold all of it, with its dot, when the server hangs up."""

    def talk(peer: Peer) -> None:
        peer.greet(b"DATA")
        peer.say(b"354 x\r\n")
        peer.connection.recv(octet)
        if reset:
            peer.reset()

    with serving(talk, buffer=16_384) as place:
        through(f"smtp://{place}")
        outcome = send(EmailMessage("x", "0123456789" * (size // 10), "us@example.com", [ANN]))
        connections._pools.clear()

    assert isinstance(outcome, TransportDown)
    assert outcome.phase == Phase.DATA


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_dot_that_our_system_did_not_take_is_certain(
    through: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, is_noticed: bool
) -> None:
    """The connection breaks just before, whether or not that is noticed in time."""
    calls: list[None] = []
    broken = threading.Event()
    if not is_noticed:
        monkeypatch.setattr(client.SMTP, "is_readable", lambda *_: False)

    def talk(peer: Peer) -> None:
        peer.greet(b"DATA")
        peer.say(b"354 x\r\n")
        while b"0123456789" not in peer.lines.readline():
            pass
        peer.reset()
        broken.set()

    def guard() -> None:
        calls.append(None)
        if len(calls) == 2:
            broken.wait(5)

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome = send(EmailMessage("x", "0123456789\n" * 100, "us@example.com", [ANN]), guard=guard)

    assert isinstance(outcome, TransportDown)
    assert outcome.phase == Phase.DATA


@pytest.mark.parametrize("reply", ["552 5.3.4 too big", "421 4.4.2 timeout"])
def test_a_refusal_before_the_dot_stops_it(through: Callable[[str], None], reply: str) -> None:
    def talk(peer: Peer) -> None:
        peer.greet(b"DATA")
        peer.say(b"354 x\r\n")
        peer.connection.recv(10)
        peer.say(reply.encode() + b"\r\n")
        peer.receive_body()

    def guard() -> None:
        time.sleep(0.1)

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome = send(to(ANN), guard=guard)

    assert isinstance(outcome, TransientRefusal | PermanentRefusal)
    assert (f"{outcome.code} {outcome.text}", outcome.phase) == (reply, Phase.DATA)


texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@quick
@given(
    more=st.lists(texts, max_size=4),
    last=texts,
    code=st.sampled_from(["250", "451", "550"]),
    pieces=st.integers(1, 40),
    end=st.sampled_from([b"\r\n", b"\n"]),
)
def test_a_reply_in_any_lines_and_any_pieces_is_one_reply(
    through: Callable[[str], None], more: list[str], last: str, code: str, pieces: int, end: bytes
) -> None:
    reply = b"".join(f"{code}-{text}".encode() + end for text in more) + f"{code} {last}".encode() + end

    def talk(peer: Peer) -> None:
        peer.greet(b".")
        peer.say(reply, pieces=pieces, pause=0.0005)
        peer.converse(b"nothing")

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome = send(to(ANN))
        connections.close_all()
        connections._pools.clear()

    expected = {"250": Accepted, "451": TransientRefusal, "550": PermanentRefusal}[code]
    assert isinstance(outcome, expected)
    assert outcome.code == code
    assert [line.strip() for line in outcome.text.split("\n")] == [text.strip() for text in (*more, last)]


def test_the_size_of_a_message_is_announced(smtp: Sink) -> None:
    """RFC 1870: a server refuses what is too large before it is sent."""
    send(to(ANN))

    [received] = smtp.received
    assert f"SIZE={len(received.source)}" in received.mail_options


@pytest.mark.parametrize(
    ("phase", "reply", "expected"),
    [
        ("MAIL", "451 4.3.0 later", TransientRefusal("451", "4.3.0 later", Phase.MAIL)),
        ("RCPT", "550 5.7.1 never", PermanentRefusal("550", "5.7.1 never", Phase.RCPT)),
        ("BODY", "554 5.7.1 never", PermanentRefusal("554", "5.7.1 never", Phase.DOT)),
        ("EHLO", CUT, TransportDown("", "")),
        ("RCPT", CUT, OutcomeUnknown("Connection unexpectedly closed")),
        ("BODY", CUT, OutcomeUnknown("Connection unexpectedly closed")),
    ],
)
def test_djangos_own_backend_does_not_say_how_far_it_came(
    settings: Settings, phase: Scripted, reply: str, expected: Outcome
) -> None:
    with Sink(user="me", password="pass") as sink:
        options = {"host": "127.0.0.1", "port": sink.port, "username": "me", "password": "pass"}
        settings.MAILERS = {"transport": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": options}}
        assert isinstance(send(to(ANN)), Accepted)
        sink.script.always[phase] = reply
        outcome = send(to(ANN))

    if isinstance(expected, TransportDown):
        assert isinstance(outcome, TransportDown)
    else:
        assert outcome == expected
