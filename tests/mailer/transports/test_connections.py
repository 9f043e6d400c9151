"""Connecting before the claim, and the pool: kept connections, dead ones, and servers that allow only a few."""

import gc
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from django.core.mail import EmailMessage
from pytest_django import Settings

from mailer.outcomes import (
    Accepted,
    Busy,
    Interrupted,
    Outcome,
    PermanentRefusal,
    Phase,
    TransientRefusal,
    TransportDown,
)
from mailer.routes import PRIMARY
from mailer.transports import client, connections
from mailer.transports.connections import Connection, connect
from mailer.transports.transmit import transmit
from tests.at_once import at_once
from tests.mailer.transports.raw_server import Peer, serving
from tests.mailer.transports.sending import send
from tests.smtp_sink import CUT, HANG, Sink
from tests.smtp_sink import Phase as Scripted

MESSAGE = ("Hello", "Hello", "us@example.com", ["ann@example.com"])


def mail() -> EmailMessage:
    return EmailMessage(*MESSAGE)


def borrow() -> Connection:
    connection = connect(PRIMARY)
    assert isinstance(connection, Connection), connection
    return connection


def pass_time(seconds: float) -> None:
    """Make the idle connections older."""
    for each in connections._pools[PRIMARY]._idle:
        each.used_at -= seconds


@pytest.fixture
def impatient(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.POSTCOMMIT = {"SMTP_TIMEOUT": "0.3"}
    monkeypatch.setattr(connections, "LONGEST_WAIT", 0.3)
    monkeypatch.setattr(client, "LONGEST_CHECK", 0.3)


@pytest.fixture
def narrow(through: Callable[[str], None], impatient: None) -> Iterator[Sink]:
    """A server that allows one connection."""
    with Sink(most_open=1) as sink:
        through(sink.url)
        yield sink


@pytest.mark.parametrize(
    ("phase", "reply", "expected"),
    [
        ("CONNECT", "421 4.3.2 closed", TransportDown("421", "4.3.2 closed")),
        ("CONNECT", "421 4.7.0 too many", TransportDown("421", "4.7.0 too many")),
        ("CONNECT", "554 5.7.1 on a block list", TransportDown("554", "5.7.1 on a block list")),
        ("AUTH", "535 5.7.8 no", TransportDown("535", "5.7.8 no", Phase.LOGIN, misconfigured=True)),
        ("AUTH", "534 5.7.9 no", TransportDown("534", "5.7.9 no", Phase.LOGIN, misconfigured=True)),
        ("AUTH", "454 4.7.0 later", TransportDown("454", "4.7.0 later", Phase.LOGIN)),
        ("AUTH", "421 4.7.0 later", TransportDown("421", "4.7.0 later", Phase.LOGIN)),
    ],
)
def test_an_answer_before_mail_is_the_transports(
    through: Callable[[str], None], phase: Scripted, reply: str, expected: TransportDown
) -> None:
    def talk(peer: Peer) -> None:
        if phase == "CONNECT":
            peer.say(f"{reply}\r\n".encode())
        else:
            peer.say(b"220 x\r\n")
            peer.lines.readline()
            peer.say(b"250-x\r\n250 AUTH PLAIN\r\n")
            peer.converse(b"AUTH")
            peer.say(f"{reply}\r\n".encode())
        peer.converse(b"nothing")

    with serving(talk) as place:
        through(f"smtp://me:pass@{place}")
        assert connect(PRIMARY) == expected


@pytest.mark.parametrize("fault", [CUT, HANG])
@pytest.mark.parametrize("phase", ["CONNECT", "EHLO"])
def test_a_break_before_mail_is_the_transports(smtp: Sink, impatient: None, phase: Scripted, fault: str) -> None:
    smtp.script.always[phase] = fault

    down = connect(PRIMARY)

    assert isinstance(down, TransportDown)
    assert (down.code, down.phase, down.misconfigured) == ("", Phase.CONNECT, False)


BROKEN = {
    "smtp://smtp..example.com": Phase.CONNECT,
    "smtp://me:p%C3%A4ss@127.0.0.1:{port}": Phase.LOGIN,
    "smtp://127.0.0.1:{port}/?tls=1": Phase.CONNECT,
    "smtps://127.0.0.1:{port}": Phase.CONNECT,
}


@pytest.mark.parametrize(("url", "phase"), BROKEN.items())
def test_what_a_person_must_correct_is_misconfigured(through: Callable[[str], None], url: str, phase: Phase) -> None:
    with Sink(user="me", password="pass") as sink:
        through(url.format(port=sink.port))
        down = connect(PRIMARY)

    assert isinstance(down, TransportDown)
    assert (down.phase, down.misconfigured) == (phase, True)


def test_a_server_without_log_in_is_misconfigured(smtp: Sink, through: Callable[[str], None]) -> None:
    through(f"smtp://me:pass@127.0.0.1:{smtp.port}")

    down = connect(PRIMARY)

    assert isinstance(down, TransportDown)
    assert (down.phase, down.misconfigured) == (Phase.LOGIN, True)


@pytest.mark.parametrize("options", [{"host": None}, {"BACKEND": "no.such.Backend"}, {"unknown": 1}])
def test_broken_options_are_misconfigured(settings: Settings, options: dict[str, object]) -> None:
    backend = options.pop("BACKEND", "mailer.transports.smtp.EmailBackend")
    settings.MAILERS = {PRIMARY: {"BACKEND": backend, "OPTIONS": options}}

    down = connect(PRIMARY)

    assert isinstance(down, TransportDown)
    assert down.misconfigured


def test_connecting_says_nothing_about_a_message(smtp: Sink) -> None:
    smtp.script.always["MAIL"] = CUT

    with borrow():
        assert smtp.connections == 1


def test_messages_share_a_connection_over_all_threads(smtp: Sink) -> None:
    for _ in range(3):
        at_once([lambda: send(mail())])

    assert (len(smtp.received), smtp.connections) == (3, 1)


@pytest.mark.parametrize("idle", [0.0, 2.0])
def test_a_dead_connection_is_replaced_before_the_claim(smtp: Sink, idle: float) -> None:
    send(mail())
    smtp.close_all_connections()
    time.sleep(0.05)
    pass_time(idle)

    with borrow() as connection:
        assert not connection.is_kept
    assert smtp.connections == 2


def test_a_connection_that_fell_silent_is_replaced(impatient: None, through: Callable[[str], None]) -> None:
    """Half open: its packets are lost."""
    peers: list[Peer] = []

    def talk(peer: Peer) -> None:
        peers.append(peer)
        peer.greet(b"NOOP" if len(peers) == 1 else b"nothing")
        time.sleep(1.5)

    with serving(talk) as place:
        through(f"smtp://{place}")
        assert isinstance(send(mail()), Accepted)
        pass_time(2)
        began = time.monotonic()
        assert isinstance(send(mail()), Accepted)
        assert time.monotonic() - began < 1
        connections.close_all()
    assert len(peers) == 2


SESSION_IS_OVER = [
    CUT,
    "421 4.4.2 timeout exceeded",
    "421 too many messages in this connection",
    "503 5.5.1 Error: nested MAIL command",
    "452 4.3.2 too many messages in this session",
    "451 4.7.0 session limit",
]


@pytest.mark.parametrize("reply", SESSION_IS_OVER)
def test_a_kept_connection_that_ends_at_mail_costs_no_attempt(smtp: Sink, reply: str) -> None:
    send(mail())
    smtp.script.once["MAIL"] = deque([reply])

    assert isinstance(send(mail()), Accepted)
    assert (len(smtp.received), smtp.connections) == (2, 2)


@pytest.mark.parametrize("reply", SESSION_IS_OVER[1:])
def test_a_new_connection_that_ends_at_mail_is_an_answer(smtp: Sink, reply: str) -> None:
    send(mail())
    smtp.script.always["MAIL"] = reply

    outcome = send(mail())

    assert isinstance(outcome, TransientRefusal | PermanentRefusal)
    assert (outcome.code, outcome.phase, smtp.connections) == (reply[:3], Phase.MAIL, 2)


@pytest.mark.parametrize("phase", ["MAIL", "RCPT"])
@pytest.mark.parametrize("reply", ["554 5.7.1 Client host rejected", "553 5.7.1 not owned by user", "550 no"])
def test_a_policy_that_a_kept_connection_may_remember_is_asked_for_again(
    smtp: Sink, phase: Scripted, reply: str
) -> None:
    send(mail())
    smtp.script.once[phase] = deque([reply])

    assert isinstance(send(mail()), Accepted)
    assert smtp.connections == 2


@pytest.mark.parametrize("reply", ["550 5.1.1 no such user", "552 5.2.2 mailbox full"])
def test_what_is_said_about_the_recipient_is_not_asked_for_again(smtp: Sink, reply: str) -> None:
    send(mail())
    smtp.script.once["RCPT"] = deque([reply])

    assert isinstance(send(mail()), PermanentRefusal)
    assert smtp.connections == 1


def test_a_probe_gets_a_new_connection(smtp: Sink) -> None:
    send(mail())

    probe = connections.connect("transport", is_probe=True)

    assert isinstance(probe, connections.Connection)
    assert not probe.is_kept
    probe.release()


def test_a_kept_connection_whose_server_is_gone_is_an_answer(smtp: Sink) -> None:
    send(mail())
    connection = borrow()
    smtp.script.once["MAIL"] = deque([CUT])
    smtp.script.always["CONNECT"] = "421 4.3.2 closed"

    assert transmit(connection, mail()) == TransportDown("421", "4.3.2 closed")


def test_a_kept_connection_without_a_successor_interrupts(smtp: Sink) -> None:
    send(mail())
    connection = borrow()
    smtp.script.once["MAIL"] = deque([CUT])
    smtp.script.always["CONNECT"] = Sink.TOO_MANY

    assert isinstance(transmit(connection, mail()), Interrupted)


def test_a_refusal_about_the_message_needs_no_new_connection(smtp: Sink) -> None:
    send(mail())
    smtp.script.once["RCPT"] = deque(["451 4.7.1 not now", "550 5.1.1 no such user"])

    outcomes = [type(send(mail())) for _ in range(3)]

    assert outcomes == [TransientRefusal, PermanentRefusal, Accepted]
    assert smtp.connections == 1


@pytest.mark.parametrize(("without", "expected"), [({"PIPELINING"}, 2), ((), 4)])
def test_a_session_ends_before_the_server_counts_too_many_errors(
    through: Callable[[str], None], without: Collection[str], expected: int
) -> None:
    """With PIPELINING each refused recipient is two errors: RCPT, and DATA without a recipient."""
    with Sink(without=without) as sink:
        through(sink.url)
        sink.script.always["RCPT"] = "550 5.1.1 no such user"
        for _ in range(2 * client.MOST_REFUSALS):
            send(mail())
        connections.close_all()

    assert sink.connections == expected


def test_threads_share_the_few_connections_that_a_server_allows(through: Callable[[str], None]) -> None:
    outcomes: Counter[str] = Counter()

    def work() -> None:
        for _ in range(12):
            connection = connect(PRIMARY)
            outcome = connection if not isinstance(connection, Connection) else transmit(connection, mail())
            outcomes[type(outcome).__name__] += 1

    with Sink(most_open=4) as sink:
        through(sink.url)
        at_once([work] * 16)
        assert outcomes == {"Accepted": 192}
        assert len(sink.received) == 192
        assert sink.open == 4
        assert sink.connections < 4 + 16
        connections.close_all()


def test_who_finds_no_connection_is_told_so_and_nothing_is_down(narrow: Sink) -> None:
    held = borrow()

    began = time.monotonic()
    assert isinstance(connect(PRIMARY), Busy)
    assert 0.2 < time.monotonic() - began < 10

    threading.Timer(0.1, held.release).start()
    with borrow() as next_one:
        assert next_one.is_kept
    assert narrow.connections == 2  # the refused one was not repeated


@pytest.mark.parametrize(
    ("greeting", "expected"),
    [
        (Sink.TOO_MANY, Busy),
        ("421 Too many concurrent SMTP connections; please try again later.", Busy),
        ("421 4.3.2 Too many open connections.", Busy),
        ("421 4.3.2 All server ports are busy", Busy),
        ("450 4.7.1 limit", Busy),
        ("421 4.3.2 closed for maintenance", TransportDown),
        ("554 5.7.1 on a block list", TransportDown),
        (CUT, TransportDown),
    ],
)
@pytest.mark.parametrize("who", ["this process knows", "nobody knows"])
def test_a_refused_greeting_of_a_server_that_works_means_busy(
    smtp: Sink, greeting: str, expected: type, who: str
) -> None:
    if who == "this process knows":
        send(mail())
        connections.close_all()
    smtp.script.always["CONNECT"] = greeting

    found = connect(PRIMARY)

    assert isinstance(found, TransportDown if who == "nobody knows" else expected)


LIMITS_OF_ACCOUNT = {
    "421 4.7.0 Too many concurrent connections from this user": Busy,
    "432 4.3.2 Concurrent connections limit exceeded": Busy,
    "454 4.7.0 Temporary authentication failure": TransportDown,
    "421 4.7.0 Too many failed attempts": TransportDown,
}


@pytest.mark.parametrize(("reply", "expected"), LIMITS_OF_ACCOUNT.items())
def test_a_limit_of_the_account_is_told_at_log_in(through: Callable[[str], None], reply: str, expected: type) -> None:
    def talk(peer: Peer) -> None:
        peer.say(b"220 x\r\n")
        peer.lines.readline()
        peer.say(b"250-x\r\n250 AUTH PLAIN\r\n")
        peer.converse(b"AUTH")
        peer.say(f"{reply}\r\n".encode())

    with serving(talk) as place:
        through(f"smtp://me:pass@{place}")
        connections._pools[PRIMARY] = pool = connections.Pool(PRIMARY)
        pool.accepted_at = time.monotonic()
        assert isinstance(connect(PRIMARY), expected)


def test_a_server_that_closes_while_connections_are_in_use_is_down(smtp: Sink, impatient: None) -> None:
    with borrow():
        smtp.script.always["CONNECT"] = "421 4.3.2 shutting down"
        assert isinstance(connect(PRIMARY), TransportDown)


def test_one_more_connection_is_tried_after_a_while(narrow: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    held = borrow()
    assert isinstance(connect(PRIMARY), Busy)
    narrow.most_open = 3
    assert isinstance(connect(PRIMARY), Busy)
    assert narrow.connections == 2

    monkeypatch.setattr(connections, "ONE_MORE_AFTER", 0.0)
    second = borrow()
    monkeypatch.undo()

    assert narrow.open == 2
    held.release()
    second.release()


def test_after_an_outage_nothing_is_limited(narrow: Sink) -> None:
    held = borrow()
    assert isinstance(connect(PRIMARY), Busy)
    held.close()
    held.release()
    narrow.script.once["CONNECT"] = deque(["421 4.3.2 closed"])
    assert isinstance(connect(PRIMARY), TransportDown)
    narrow.most_open = 9

    for each in [borrow() for _ in range(5)]:
        each.release()


def test_a_connection_that_nobody_gave_back_is_not_missed(narrow: Sink) -> None:
    """Its thread died."""
    lost = borrow()
    assert isinstance(connect(PRIMARY), Busy)

    lost.close()
    del lost
    gc.collect()

    borrow().release()


def test_a_connection_that_was_given_back_is_not_used(smtp: Sink) -> None:
    connection = borrow()
    connection.release()

    with pytest.raises(AssertionError, match="another thread may use it"):
        transmit(connection, mail())
    assert smtp.received == []


def test_giving_back_twice_is_giving_back_once(smtp: Sink) -> None:
    connection = borrow()
    connection.release()
    connection.release()

    first, second = borrow(), borrow()
    assert first.backend is not second.backend
    first.release()
    second.release()


def test_idle_connections_are_closed_politely(smtp: Sink) -> None:
    for each in [borrow(), borrow()]:
        each.release()
    pass_time(connections.LONGEST_IDLE - 1)
    connections.close_idle()
    assert smtp.open == 2

    pass_time(2)
    connections.close_idle()

    time.sleep(0.1)
    assert smtp.open == 0


def test_closing_never_waits_for_long(
    impatient: None, through: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LONGEST_GOODBYE", 0.2)

    def talk(peer: Peer) -> None:
        peer.greet(b"QUIT")
        time.sleep(2)

    with serving(talk) as place:
        through(f"smtp://{place}")
        send(mail())
        began = time.monotonic()
        connections.close_all()
        assert time.monotonic() - began < 1.5


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_makes_its_own_connections(smtp: Sink) -> None:
    held, idle = borrow(), borrow()
    idle.release()

    if (child := os.fork()) == 0:
        try:
            outcome: Outcome = send(mail())
            os._exit(0 if isinstance(outcome, Accepted) else 1)
        finally:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert isinstance(transmit(held, mail()), Accepted)
    assert isinstance(send(mail()), Accepted)
    assert (len(smtp.received), smtp.connections) == (3, 3)


def test_a_missing_client_certificate_is_misconfigured(settings: Settings, tmp_path: Path) -> None:
    options = {"host": "127.0.0.1", "port": 1, "use_ssl": True, "ssl_certfile": str(tmp_path / "none.pem")}
    settings.MAILERS = {PRIMARY: {"BACKEND": "mailer.transports.smtp.EmailBackend", "OPTIONS": options}}

    down = connect(PRIMARY)

    assert isinstance(down, TransportDown)
    assert down.misconfigured
