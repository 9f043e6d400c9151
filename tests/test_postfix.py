"""The tests' Postfix: it delivers, and it refuses in the words on which the tests of the worker rely."""

import smtplib
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.environment import new_directory
from tests.postfix import Postfix
from tests.servers import wait_until

MAIL = "MAIL FROM:<shop@shop.example>"
RCPT = "RCPT TO:<ann@example.com>"
NOBODY = "127.0.0.1:1"
"""No server listens here."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Postfix]:
    with Postfix(new_directory("postfix")) as server:
        yield server


@pytest.fixture
def configured(shared: Postfix) -> Callable[..., Postfix]:
    """The same server with other settings."""

    def configure(**settings: str) -> Postfix:
        shared.configure(**settings)
        return shared

    return configure


def say(client: smtplib.SMTP, *commands: str) -> list[str]:
    """Return the replies to these commands, until the server closes the connection."""
    replies = []
    with suppress(smtplib.SMTPServerDisconnected):
        for command in commands:
            code, text = client.docmd(command)
            replies.append(f"{code} {text.decode()}")
    return replies


def talk(server: Postfix, *commands: str) -> list[str]:
    """Do the same in a new connection."""
    client = smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=10)
    try:
        client.ehlo()
        return say(client, *commands)
    finally:
        client.close()


def test_it_delivers_and_counts_by_recipient_and_message(configured: Callable[..., Postfix]) -> None:
    server = configured()
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        for _ in range(2):
            client.sendmail("a@b.example", ["c@d.example", "e@f.example"], "Message-ID: <1@x>\r\n\r\nhello")

    wait_until(lambda: server.delivered.total() == 4, "the mail")
    assert server.delivered == {("c@d.example", "<1@x>"): 2, ("e@f.example", "<1@x>"): 2}


@pytest.mark.parametrize(
    ("lines", "phase", "reply"),
    [
        ({"smtpd_client_restrictions": "reject"}, RCPT, "554 5.7.1 <unknown[127.0.0.1]>: Client host rejected"),
        (
            {"smtpd_recipient_restrictions": "permit_sasl_authenticated,reject"},
            RCPT,
            "554 5.7.1 <ann@example.com>: Recipient address rejected: Access denied",
        ),
        (
            {"mynetworks": "192.0.2.0/24", "smtpd_relay_restrictions": "permit_mynetworks,reject_unauth_destination"},
            RCPT,
            "554 5.7.1 <ann@example.com>: Relay access denied",
        ),
        (  # Debian's main.cf, on a server that does not know this client
            {"mynetworks": "192.0.2.0/24", "smtpd_relay_restrictions": "permit_mynetworks,defer_unauth_destination"},
            RCPT,
            "454 4.7.1 <ann@example.com>: Relay access denied",
        ),
        (
            {"smtpd_sender_restrictions": "check_sender_access inline:{{shop@shop.example=553 5.7.1 not yours}}"},
            RCPT,
            "553 5.7.1 <shop@shop.example>: Sender address rejected: not yours",
        ),
        (
            {"smtpd_sender_restrictions": "reject", "smtpd_delay_reject": "no"},
            MAIL,
            "554 5.7.1 <shop@shop.example>: Sender address rejected: Access denied",
        ),
        ({"queue_minfree": "999999999999999"}, MAIL, "452 4.3.1 Insufficient system storage"),
        ({"smtpd_milters": f"inet:{NOBODY}"}, MAIL, "451 4.7.1 Service unavailable - try again later"),
        (
            {"smtpd_recipient_restrictions": f"check_policy_service inet:{NOBODY}"},
            RCPT,
            "451 4.3.5 <ann@example.com>: Recipient address rejected: Server configuration problem",
        ),
    ],
)
def test_refusals_of_every_mail(
    configured: Callable[..., Postfix], lines: dict[str, str], phase: str, reply: str
) -> None:
    replies = talk(configured(**lines), MAIL, RCPT)

    assert replies[[MAIL, RCPT].index(phase)].startswith(reply)
    assert phase == MAIL or replies[0].startswith("250")


@pytest.mark.parametrize(
    ("limit", "phase", "reply"),
    [
        ("smtpd_client_message_rate_limit", MAIL, "450 4.7.1 Error: too much mail from 127.0.0.1"),
        ("smtpd_client_recipient_rate_limit", RCPT, "450 4.7.1 Error: too many recipients from 127.0.0.1"),
    ],
)
def test_the_limit_of_a_time_unit(configured: Callable[..., Postfix], limit: str, phase: str, reply: str) -> None:
    server = configured(**{limit: "2"}, anvil_rate_time_unit="3s")

    replies = talk(server, *[MAIL, RCPT, "RSET"] * 3)

    assert [each[:3] for each in replies[:6]] == ["250"] * 6
    assert replies[6:][[MAIL, RCPT].index(phase)] == reply
    wait_until(lambda: talk(server, MAIL, RCPT)[-1].startswith("250"), "the next time unit")


def test_the_limit_of_recipients(configured: Callable[..., Postfix]) -> None:
    replies = talk(configured(smtpd_recipient_limit="3"), MAIL, *[RCPT] * 4)

    assert [each[:3] for each in replies[:4]] == ["250"] * 4
    assert replies[4] == "452 4.5.3 Error: too many recipients"


def test_the_limit_of_connections(configured: Callable[..., Postfix]) -> None:
    server = configured(smtpd_client_connection_count_limit="2")

    with smtplib.SMTP("127.0.0.1", server.port) as one, smtplib.SMTP("127.0.0.1", server.port):
        with pytest.raises(smtplib.SMTPConnectError, match=r"421.*4\.7\.0 .* too many connections"):
            smtplib.SMTP("127.0.0.1", server.port)
        assert say(one, "NOOP") == ["250 2.0.0 Ok"]


def test_unknown_recipients_until_it_hangs_up(configured: Callable[..., Postfix]) -> None:
    server = configured(
        mydestination="here.example",
        local_recipient_maps="inline:{ann@here.example=known}",
        smtpd_hard_error_limit="2",
    )
    unknown = [f"RCPT TO:<unknown-{n}@here.example>" for n in range(3)]

    replies = talk(server, MAIL, "RCPT TO:<ann@here.example>", *unknown, RCPT)

    assert [each[:9] for each in replies] == ["250 2.1.0", "250 2.1.5", "550 5.1.1", "550 5.1.1", "421 4.7.0"]
    assert replies[-1].endswith("Error: too many errors")


def test_an_open_connection_keeps_the_old_settings(configured: Callable[..., Postfix]) -> None:
    """So a client that probes whether a server was corrected must open a new connection."""
    server = configured(smtpd_client_restrictions="reject")
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.ehlo()
        assert say(client, MAIL, RCPT, "RSET")[1].startswith("554")

        server.configure()

        assert talk(server, MAIL, RCPT)[1].startswith("250")
        assert say(client, MAIL, RCPT)[1].startswith("554")
