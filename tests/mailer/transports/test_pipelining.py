"""Commands that are written together (RFC 2920) have the same outcomes as commands that wait for each reply."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from django.core.mail import EmailMessage
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from mailer.outcomes import (
    Accepted,
    Outcome,
    PermanentRefusal,
    Phase,
    Stop,
    TransientRefusal,
)
from mailer.routes import PRIMARY
from mailer.transports import client, connections
from mailer.transports.smtp import EmailBackend
from mailer.transports.transmit import transmit
from tests.mailer.transports.raw_server import Peer, serving
from tests.mailer.transports.sending import send
from tests.smtp_sink import Sink

ANN, BOB, CID, DEE = "ann@example.com", "bob@example.com", "cid@example.com", "dee@example.com"
CUT = "cut"
OK, GO_ON = "250 2.0.0 ok", "354 go on"
LIMITS = ["452 4.5.3 too many recipients", "552 too many recipients"]
UNKNOWN = PermanentRefusal("550", "5.1.1 no such user", Phase.RCPT, address_unknown=True)


def to(*recipients: str, sender: str = "us@example.com") -> EmailMessage:
    headers = {"Date": "Sat, 28 Nov 2026 04:00:00 +0000", "Message-ID": "<1@example.com>"}
    return EmailMessage("Hello", "Hello", sender, recipients, headers=headers)


@dataclass
class Script:
    """What a server answers in a transaction of us@example.com. Others succeed."""

    mail: str = OK
    rcpt: dict[str, str] = field(default_factory=dict)
    data: str = GO_ON
    data_without_recipients: str = "554 5.5.1 no valid recipients"
    dot: str = OK
    pieces: int = 0
    """The octets of each write of the server."""


@dataclass
class Server:
    """A server that keeps order: after a refused MAIL it takes no recipient, and after its limit no other one."""

    script: Script = field(default_factory=Script)
    pipelining: bool = True
    took: list[tuple[list[str], bytes]] = field(default_factory=list)
    """Recipients and body of each message that it accepted."""

    def begin(self, script: Script, *, pipelining: bool) -> None:
        self.script, self.pipelining, self.took = script, pipelining, []

    def talk(self, peer: Peer) -> None:
        script, limit = Script(), ""
        recipients: list[str] | None = None
        peer.say(b"220 x\r\n")
        for line in peer.lines:
            reply = OK
            match line[:4]:
                case b"ehlo":
                    reply = "250-x\r\n250-PIPELINING\r\n250 SIZE" if self.pipelining else "250-x\r\n250 SIZE"
                case b"MAIL":
                    script = self.script if b"<us@" in line else Script()
                    reply, limit = script.mail, ""
                    recipients = [] if reply == OK else None
                case b"RCPT" if recipients is None:
                    reply = "503 5.5.1 need MAIL"
                case b"RCPT":
                    address = line[9:-3].decode()
                    reply = limit or script.rcpt.get(address, OK)
                    limit = reply if recipients and reply in LIMITS else ""
                    recipients = (recipients or []) + [address] * (reply == OK)
                case b"DATA":
                    reply = script.data if recipients else script.data_without_recipients
                    if reply == GO_ON:
                        reply = self._take(peer, script, recipients or [])
                        recipients = None
            if reply != CUT:
                peer.say(reply.encode() + b"\r\n", pieces=script.pieces, pause=0.0002 * bool(script.pieces))
            if reply == CUT or reply.startswith("421"):
                return

    def _take(self, peer: Peer, script: Script, recipients: list[str]) -> str:
        """Return the answer to the dot."""
        peer.say(b"354 go on\r\n", pieces=script.pieces)
        if not peer.receive_body():
            return CUT
        if script.dot == OK:
            self.took.append((recipients, peer.body))
        return script.dot


@pytest.fixture
def server(through: Callable[[str], None], settings: Settings) -> Iterator[Server]:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "1"}
    server = Server()
    with serving(server.talk) as place:
        through(f"smtp://{place}")
        yield server
        connections.close_all()


refusals = st.sampled_from(
    [
        "421 4.7.0 too many errors",
        "450 4.7.1 later",
        "451-4.3.0 not\r\n451 4.3.0 now",
        "550 5.7.1 never",
        "503 x",
        CUT,
        "600 x",
        "what",
    ]
)
recipients = st.sampled_from([OK] * 4 + ["550 5.1.1 no such user", "451 4.7.1 greylisted", *LIMITS])
scripts = st.builds(
    Script,
    mail=st.sampled_from([OK] * 6) | refusals,
    rcpt=st.dictionaries(st.sampled_from([ANN, BOB, CID, DEE]), recipients | recipients | refusals),
    data=st.sampled_from([GO_ON] * 4 + [OK]) | refusals,
    data_without_recipients=st.sampled_from(["503 5.5.1 need RCPT", "554 5.5.1 no", GO_ON, OK, CUT, "421 4.7.0 bye"]),
    dot=st.sampled_from([OK] * 4) | refusals,
    pieces=st.sampled_from([0, 0, 9]),
)


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts, number=st.integers(1, 4), stop_at=st.sampled_from([0, 0, 0, 1, 2]))
@example(script=Script(rcpt={BOB: LIMITS[0]}), number=4, stop_at=0)
@example(script=Script(rcpt={ANN: "550 5.1.1 no such user"}, data_without_recipients=GO_ON), number=1, stop_at=0)
def test_the_same_replies_have_the_same_outcome(server: Server, script: Script, number: int, stop_at: int) -> None:
    """Also the server gets the same messages, and the next mail is not confused by replies that were still to come."""
    results = []
    for pipelining in (False, True):
        connections.close_all()
        connections._pools.clear()
        server.begin(script, pipelining=pipelining)
        outcome = send(to(*[ANN, BOB, CID, DEE][:number]), guard=_stop(at=stop_at))
        assert isinstance(send(to("eve@example.com", sender="next@example.com")), Accepted)
        assert server.took.pop()[0] == ["eve@example.com"]
        results.append((_without_words_of_breaks(outcome), server.took))

    assert results[0] == results[1]


def _stop(*, at: int) -> Callable[[], None]:
    calls: list[None] = []

    def guard() -> None:
        calls.append(None)
        if len(calls) == at:
            raise Stop("stop")

    return guard


def _without_words_of_breaks(outcome: Outcome) -> Outcome:
    """Whether a connection ends with FIN or with RST depends on the moment."""
    is_break = outcome.code == "" and "closed" in outcome.text
    return replace(outcome, text="closed") if is_break else outcome


def test_a_mail_takes_two_round_trips(through: Callable[[str], None]) -> None:
    """The server answers nothing until it has all commands."""
    together: list[bytes] = []

    def talk(peer: Peer) -> None:
        peer.greet(b"MAIL")
        together.extend(peer.lines.readline() for _ in range(3))
        peer.say(b"250 ok\r\n250 ok\r\n550 5.1.1 no such user\r\n354 go on\r\n")
        peer.receive_body()
        peer.say(b"250 2.0.0 ok\r\n")
        peer.converse(b"nothing")

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome = send(to(ANN, BOB))
        connections.close_all()

    assert together == [b"RCPT TO:<ann@example.com>\r\n", b"RCPT TO:<bob@example.com>\r\n", b"DATA\r\n"]
    assert outcome == Accepted("250", "2.0.0 ok", (ANN,), {BOB: UNKNOWN})


def test_a_server_that_writes_each_reply_by_itself_need_not_wait(server: Server) -> None:
    """Its system holds back a small segment until the one before it is acknowledged, which takes Linux 40 ms."""
    server.begin(Script(), pipelining=True)
    send(to(ANN))

    took = []
    for _ in range(20):
        began = time.monotonic()
        send(to(ANN, BOB))
        took.append(time.monotonic() - began)

    assert sorted(took)[5] < 0.04  # a busy machine does not slow down all of them


@pytest.mark.parametrize("is_announced", [True, False])
def test_few_commands_wait_for_their_replies(through: Callable[[str], None], *, is_announced: bool) -> None:
    """With many recipients, or where the server does not announce it, which is then asked one command at a time."""
    written: list[bytes] = []

    def talk(peer: Peer) -> None:
        peer.say(b"220 x\r\n")
        peer.connection.recv(1000)
        peer.say(b"250-x\r\n250 PIPELINING\r\n" if is_announced else b"250 x\r\n")
        while not written or not written[-1].endswith(b"DATA\r\n"):
            written.append(peer.connection.recv(65_536))
            peer.say(b"250 ok\r\n" * (written[-1].count(b"\n") - written[-1].count(b"DATA")))
        peer.say(b"354 go on\r\n")
        peer.receive_body()
        peer.say(b"250 2.0.0 ok\r\n")
        peer.converse(b"nothing")

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome = send(to(*(f"{n}@example.com" for n in range(500))))
        connections.close_all()

    assert isinstance(outcome, Accepted)
    assert len(outcome.recipients) == 500
    assert max(map(len, written)) <= client.TOGETHER
    assert len(written) == (-(-len(b"".join(written)) // client.TOGETHER) if is_announced else 502)


def test_a_recipient_that_is_taken_after_the_limit_is_not_asked_again(smtp: Sink) -> None:
    smtp.script.to = {BOB: LIMITS[0], DEE: "550 5.1.1 no such user"}

    outcome = send(to(ANN, BOB, CID, DEE))

    later = TransientRefusal("452", "4.5.3 too many recipients", Phase.RCPT)
    assert isinstance(outcome, Accepted)
    assert (outcome.recipients, outcome.refused) == ((ANN, CID), {BOB: later, DEE: UNKNOWN})


def test_after_the_limit_nothing_more_is_written(smtp: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TOGETHER", 110)  # MAIL and two recipients
    smtp.script.to = {BOB: LIMITS[0]}

    outcome = send(to(ANN, BOB, CID, DEE))

    assert isinstance(outcome, Accepted)
    assert (outcome.recipients, list(outcome.refused)) == ((ANN,), [BOB, CID, DEE])
    assert [received.recipients for received in smtp.received] == [[ANN]]


REFUSED = {
    "mail": Script(mail="550 5.7.1 never", data_without_recipients=GO_ON),
    "recipient": Script(rcpt={ANN: "550 5.1.1 no such user"}, data_without_recipients=GO_ON),
}


@pytest.mark.parametrize("script", REFUSED.values(), ids=REFUSED)
def test_a_server_that_waits_for_a_message_to_nobody_gets_none(server: Server, script: Script) -> None:
    server.begin(script, pipelining=True)

    connection = connections.connect(PRIMARY)
    assert isinstance(connection, connections.Connection)
    outcome = transmit(connection, to(ANN))

    assert isinstance(outcome, PermanentRefusal)
    assert not connection.can_be_kept
    assert server.took == []


def test_replies_that_do_not_come_after_a_refusal_delay_it_only_a_little(
    through: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST_CHECK", 0.2)

    def talk(peer: Peer) -> None:
        peer.greet(b"MAIL")
        peer.say(b"450 4.7.1 later\r\n")
        peer.receive_body()

    with serving(talk) as place:
        through(f"smtp://{place}")
        began = time.monotonic()
        outcome = send(to(ANN))
        took = time.monotonic() - began

    assert outcome == TransientRefusal("450", "4.7.1 later", Phase.MAIL)
    assert took < 1


def test_a_refused_sender_with_many_recipients_is_not_refused_a_hundred_times(smtp: Sink) -> None:
    """Postfix waits a second before each refusal after the tenth."""
    smtp.script.once["MAIL"] = deque(["450 4.7.1 later"])
    connection = connections.connect(PRIMARY)
    assert isinstance(connection, connections.Connection)

    assert isinstance(connection.backend, EmailBackend)
    server = connection.backend.connection

    outcome = transmit(connection, to(*(f"{n}@example.com" for n in range(60))))

    assert outcome == TransientRefusal("450", "4.7.1 later", Phase.MAIL)
    assert server
    assert server.refusals == client.MOST_REFUSALS


@pytest.mark.parametrize("reply", ["421 4.3.2 closed", "552 5.3.4 too big"])
def test_a_reply_that_comes_with_the_one_to_data_is_heard_before_the_dot(
    through: Callable[[str], None], reply: str
) -> None:
    peers: list[Peer] = []

    def talk(peer: Peer) -> None:
        peers.append(peer)
        peer.greet(b"DATA")
        peer.say(f"354 go on\r\n{reply}\r\n".encode())
        peer.receive_body()

    with serving(talk) as place:
        through(f"smtp://{place}")
        outcome = send(to(ANN))

    assert isinstance(outcome, TransientRefusal | PermanentRefusal)
    assert (f"{outcome.code} {outcome.text}", outcome.phase) == (reply, Phase.DATA)


def test_all_refusals_of_a_session_are_counted(server: Server) -> None:
    """The server counts the refused DATA, too."""
    server.begin(Script(rcpt={ANN: "550 5.1.1 no such user"}), pipelining=True)

    connection = connections.connect(PRIMARY)
    assert isinstance(connection, connections.Connection)
    transmit(connection, to(ANN))

    assert isinstance(connection.backend, EmailBackend)
    assert connection.backend.connection
    assert connection.backend.connection.refusals == 2
    assert connection.can_be_kept
