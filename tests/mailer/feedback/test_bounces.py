"""What each kind of bounce reports: the files in dsn/, those of real servers among them, and what in no_bounces/ is none."""

import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailer.feedback import opened
from mailer.feedback.bounces import parse
from mailer.feedback.report import Report
from mailer.models import Bounce, What

HERE = Path(__file__).parent
FILES = {path.stem: path.read_bytes() for path in sorted((HERE / "dsn").glob("*.eml"))}
NO_BOUNCES = {path.stem: path.read_bytes() for path in sorted((HERE / "no_bounces").glob("*.eml"))}

BOUNCED, DELAYED, DELIVERED, COMPLAINED = What.BOUNCED, What.DELAYED, What.DELIVERED, What.COMPLAINED
HARD, SOFT, POLICY, NONE = Bounce.HARD, Bounce.SOFT, Bounce.POLICY, Bounce.NONE

Row = tuple[What, Bounce, str, str, str]
"""What, the kind of bounce, the code, the recipient, the address that the report says we wrote to."""

EXPECTED: dict[str, list[Row]] = {
    # Of real servers
    "exim-eximbounce": [(BOUNCED, HARD, "5.1.1", "eximbounce@example.com", "")],
    "opensmtpd-nobody-o": [(BOUNCED, HARD, "5.1.1", "nobody-o@strict.example", "")],
    "postfix-delay-nobody": [(DELAYED, NONE, "4.4.1", "nobody@nowhere.example", "nobody@nowhere.example")],
    "postfix-full": [(BOUNCED, SOFT, "5.2.2", "full@remote.example", "full@remote.example")],
    "postfix-nobody": [(BOUNCED, SOFT, "4.4.1", "nobody@nowhere.example", "nobody@nowhere.example")],
    "postfix-nocode": [(BOUNCED, HARD, "550", "nocode@remote.example", "nocode@remote.example")],
    "postfix-quser": [(BOUNCED, SOFT, "5.2.2", "quser@lmtpquota.example", "quser@lmtpquota.example")],
    "postfix-unknown-a": [(BOUNCED, HARD, "5.1.1", "unknown-a@remote.example", "unknown-a@remote.example")],
    "postfix-unknown-verp": [(BOUNCED, HARD, "5.1.1", "unknown-verp@remote.example", "unknown-verp@remote.example")],
    "postfix-unknownu-smtputf8": [(BOUNCED, HARD, "5.1.1", "unknownü@remote.example", "unknownü@remote.example")],
    # As other servers write them
    "exchange-online-5110": [(BOUNCED, HARD, "5.1.10", "ann@contoso.example", "ann@contoso.example")],
    "exchange-online-541": [(BOUNCED, HARD, "5.4.1", "ann@fabrikam.example", "")],
    "gmail-511": [(BOUNCED, HARD, "5.1.1", "ann.nobody@gmail.example", "")],
    "postfix-gmail-dmarc": [(BOUNCED, POLICY, "5.7.26", "ann@gmail.example", "ann@gmail.example")],
    "postfix-three-recipients": [
        (BOUNCED, HARD, "5.1.1", "ann@one.example", "ann@one.example"),
        (BOUNCED, SOFT, "5.2.2", "bob@two.example", "robert@alias.example"),
        (DELIVERED, NONE, "2.0.0", "cid@three.example", ""),
        (BOUNCED, SOFT, "554", "dee@four.example", ""),
    ],
    "forwarded-elsewhere": [(BOUNCED, HARD, "5.1.1", "ann.old@closed.example", "ann@alias.example")],
    "greylisting-delay": [(DELAYED, NONE, "4.7.1", "ann@grey.example", "")],
    "sendmail-expired": [(BOUNCED, SOFT, "4.4.7", "ann@away.example", "")],
    "mailbox-full-552": [(BOUNCED, SOFT, "552", "ann@isp.example", "")],
    "spam-without-status": [(BOUNCED, POLICY, "554", "ann@isp.example", "")],
    "no-returned-mail": [(BOUNCED, HARD, "5.1.1", "ann@isp.example", "")],
    "international-xtext": [(BOUNCED, POLICY, "5.6.7", "jörg+shop@bücher.example", "jörg+shop@bücher.example")],
    "international-base64": [(BOUNCED, HARD, "5.1.1", "ผู้@thai.example", "")],
    "action-last-and-no-action": [
        (BOUNCED, HARD, "5.1.1", "ann@old.example", ""),
        (DELAYED, NONE, "4.2.1", "ann2@old.example", ""),
        (BOUNCED, HARD, "5.1.1", "", ""),
    ],
    # Only text
    "exim-old-text": [
        (BOUNCED, HARD, "550", "ann@one.example", ""),
        (BOUNCED, POLICY, "5.7.1", "bob@two.example", ""),
    ],
    "exim-old-delay": [(DELAYED, NONE, "451", "ann@away.example", "")],
    "qmail": [(BOUNCED, HARD, "5.1.1", "ann@isp.example", ""), (BOUNCED, SOFT, "550", "bob@far.example", "")],
    # Complaints
    "yahoo-arf": [(COMPLAINED, NONE, "", "ann@yahoo.example", "")],
    "arf-without-recipient": [(COMPLAINED, NONE, "", "", "")],
    "hotmail-jmrp": [(COMPLAINED, NONE, "", "ann@hotmail.example", "")],
}

RETURNED = {
    "exim-eximbounce": "<a19301ca27314e5bb66ea489028b5e91@postcommit.example>",
    "opensmtpd-nobody-o": "<f3dc8559c7ae477094c1a06c402e26ed@postcommit.example>",
    "postfix-delay-nobody": "<55ef74a8ed704c03b7c426efaa5bb829@postcommit.example>",
    "postfix-full": "<d237ff05cdf5409b9dc74552fffef05a@postcommit.example>",
    "postfix-nobody": "<55ef74a8ed704c03b7c426efaa5bb829@postcommit.example>",
    "postfix-nocode": "<eb26860a74954a42891f21bdef8407ea@postcommit.example>",
    "postfix-quser": "<43ddda81542e4f399d87ddae87fa95fe@postcommit.example>",
    "postfix-unknown-a": "<a48198cbe0f341209b0a796642670042@postcommit.example>",
    "postfix-unknown-verp": "<daa588482d164190acb8ef899e39ed14@postcommit.example>",
    "postfix-unknownu-smtputf8": "<1317ddf3b3554271800c1b681accd0a0@postcommit.example>",
    "exchange-online-5110": "<order-17@shop.example>",
    "exchange-online-541": "<order-18@shop.example>",
    "gmail-511": "<order-19@shop.example>",
    "postfix-gmail-dmarc": "<order-20@shop.example>",
    "postfix-three-recipients": "<order-21@shop.example>",
    "exim-old-text": "<order-22@shop.example>",
    "qmail": "<order-23@shop.example>",
    "yahoo-arf": "<order-24@shop.example>",
    "arf-without-recipient": "<order-25@shop.example>",
    "hotmail-jmrp": "<order-26@shop.example>",
    "greylisting-delay": "<order-27@shop.example>",
    "sendmail-expired": "<order-28@shop.example>",
    "no-returned-mail": "<order-29@shop.example>",
    "international-xtext": "<order-30@shop.example>",
    "forwarded-elsewhere": "<order-31@shop.example>",
}
"""The Message-ID of the mail that came back: from the returned mail, its header, the text, or the thread."""


def of_nobody(address: str) -> None:
    """Say that no address is ours."""


def read(raw: bytes) -> list[Report]:
    return parse(raw, message_of=of_nobody)


def rows(reports: list[Report]) -> list[Row]:
    return [(each.what, each.bounce, each.code, each.recipient, each.original_recipient) for each in reports]


def report_with(fields: str, text: str = "Text.") -> bytes:
    """Return a delivery report of one recipient with these fields."""
    return (
        "From: MAILER-DAEMON@mx.example\nDate: Wed, 25 Nov 2026 10:00:01 +0000\nMessage-ID: <a@mx.example>\n"
        'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary="x"\n\n'
        f"--x\nContent-Type: text/plain; charset=utf-8\n\n{text}\n\n--x\nContent-Type: message/delivery-status\n\n"
        f"Reporting-MTA: dns; mx.example\n\nFinal-Recipient: rfc822; ann@example.com\n{fields}\n\n--x--\n"
    ).encode()


def test_every_file_has_a_row() -> None:
    assert FILES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_bounce(name: str) -> None:
    reports = read(FILES[name])

    assert rows(reports) == EXPECTED[name]
    assert {report.message_id for report in reports} == {RETURNED.get(name, "")}
    assert {report.at.date().isoformat() for report in reports} == {"2026-11-25"}
    assert all(report.message is None for report in reports)


@pytest.mark.parametrize("name", NO_BOUNCES)
def test_what_is_no_bounce_reports_nothing(name: str) -> None:
    assert read(NO_BOUNCES[name]) == []


@pytest.mark.parametrize("name", FILES)
def test_the_same_mail_with_other_line_ends_or_another_hop_is_the_same_report(name: str) -> None:
    hop = b"Received: from a by b; Wed, 25 Nov 2026 23:59:59 +0000\n"
    again = (hop + FILES[name]).replace(b"\n", b"\r\n")

    assert read(again) == read(FILES[name])


def test_reports_of_one_mail_are_different_facts() -> None:
    reports = [report for raw in FILES.values() for report in read(raw)]

    assert len({report.event_id for report in reports}) == len(reports)


FAILED = [
    # fields of the report, the text for people, what it means
    ("Status: 5.1.1", "", HARD, "5.1.1"),
    ("Status: 5.1.1\nDiagnostic-Code: smtp; 550 5.7.1 blocked", "", POLICY, "5.7.1"),
    (
        "Status: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 <shop@shop.example>: Sender address rejected",
        "",
        POLICY,
        "5.1.1",
    ),
    ("Status: 5.0.0\nDiagnostic-Code: smtp; 550-5.1.1 a\n 550 5.7.26 b", "", POLICY, "5.7.26"),
    ("Status: 5.0.0\nDiagnostic-Code: smtp; 550 Unrouteable address", "", HARD, "550"),
    ("Status: 5.0.0\nDiagnostic-Code: smtp; 550 blocked: no such user", "", POLICY, "550"),
    ("Status: 5.0.0\nDiagnostic-Code: smtp; 452 no such user for now", "", SOFT, "452"),
    ("Status: 5.0.0\nDiagnostic-Code: smtp; 554 Daily sending quota exceeded", "", POLICY, "554"),
    ("Status: 5.0.0\nDiagnostic-Code: smtp; 552 message size exceeds the limit", "", POLICY, "552"),
    ("Status: 5.0.0\nDiagnostic-Code: x-unix; user unknown", "", HARD, "5.0.0"),
    (
        "Status: 5.5.0\nDiagnostic-Code: smtp; 550 5.5.0 Requested action not taken: mailbox unavailable",
        "",
        SOFT,
        "550",
    ),
    ("Status: 5.1.0\nDiagnostic-Code: smtp; 550 5.1.0 Unknown recipient", "", HARD, "550"),
    ("Status: 5.2.1\nDiagnostic-Code: smtp; 550 5.2.1 mailbox disabled", "", SOFT, "5.2.1"),
    ("Status: 5.2.3", "", POLICY, "5.2.3"),
    ("Status: 5.1.8", "", POLICY, "5.1.8"),
    ("Status: 5.4.4\nDiagnostic-Code: X-Postfix; Host or domain name not found", "", SOFT, "5.4.4"),
    ("Status: 4.1.1\nDiagnostic-Code: smtp; 450 4.1.1 unverified address", "", SOFT, "4.1.1"),
    ("Status: 4.7.1\nDiagnostic-Code: smtp; 451 4.7.1 Greylisted", "", SOFT, "4.7.1"),
    ("Status: 5.0.0", "<ann@example.com>: host 10.5.1.1 said: 550 5.2.2 full\n\n5.1.1", SOFT, "5.2.2"),
    ("Status: 5.0.0", "ann@example.com\n  550 5.2.2 full\nbob@example.com\n  550 5.1.1 unknown", SOFT, "5.2.2"),
    (
        "Status: 5.0.0",
        "joann@example.com: 550 5.1.1 no\nAnn@EXAMPLE.com: 550 5.2.2 full\nann@example.com.au: 5.1.1",
        SOFT,
        "5.2.2",
    ),
    ("Status: 5.0.0", "It was refused:\n550 5.1.1 no such user", HARD, "5.1.1"),
    ("Status: 5.1.1", "Returned to the sender", HARD, "5.1.1"),
    ("Status: 5.0.0", "Connect to 5.1.1.1 failed", SOFT, "5.0.0"),
    ("", "", SOFT, ""),
    ("Status: nonsense\nDiagnostic-Code: nonsense", "", SOFT, ""),
]


@pytest.mark.parametrize(("fields", "text", "bounce", "code"), FAILED)
def test_what_a_failure_says_about_the_address(fields: str, text: str, bounce: Bounce, code: str) -> None:
    [report] = read(report_with(f"Action: failed\n{fields}".strip(), text))

    assert (report.what, report.bounce, report.code) == (BOUNCED, bounce, code)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ("Action: failed\nStatus: 4.4.1", BOUNCED),
        ("Action: FAILED (for good)\nStatus: 5.1.1", BOUNCED),
        ("Action: error\nStatus: 5.1.1", BOUNCED),
        ("Action: delayed\nStatus: 5.1.1", DELAYED),
        ("Action: delivered\nStatus: 2.0.0", DELIVERED),
        ("Status: 5.1.1", BOUNCED),
        ("Action:\nStatus: 4.2.2", DELAYED),
        ("Action: relayed\nStatus: 5.1.1", None),
        ("Action: expanded\nStatus: 2.0.0", None),
        ("Action: eaten\nStatus: 5.1.1", None),
        ("Status: none", None),
    ],
)
def test_the_action_decides(fields: str, what: What | None) -> None:
    assert [report.what for report in read(report_with(fields))] == ([what] if what else [])


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("postfix-unknown-verp", "bounces+12345-s3cr3t=unknown-verp=remote.example@postcommit.example"),
        ("qmail", "bounces+a1b2@shop.example"),
        ("hotmail-jmrp", "bounces+a1b2@shop.example"),  # only the returned mail names it
        ("yahoo-arf", "bounces+a1b2@shop.example"),  # only Original-Mail-From names it
    ],
)
def test_a_bounce_address_of_ours_names_the_message(name: str, ours: str) -> None:
    reports = parse(FILES[name], message_of={ours: 42}.get)

    assert reports
    assert all(report.message == 42 for report in reports)


def test_where_the_mail_was_delivered_to_counts_more_than_what_it_says() -> None:
    keys = {"bounces+mine@shop.example": 1, "bounces+a1b2@shop.example": 2}

    [report] = parse(FILES["gmail-511"], message_of=keys.get, to=["bounces+mine@shop.example"])

    assert report.message == 1


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 01 Jan 1900 00:00:00 +1400", "Wed, 25 Nov 2099 10:00:00 +0000"]
)
def test_a_date_that_cannot_be_right_is_now(date: str) -> None:
    before = datetime.now(UTC)
    [report] = read(report_with("Action: failed").replace(b"Wed, 25 Nov 2026 10:00:01 +0000", date.encode()))

    assert timedelta(0) <= report.at - before < timedelta(minutes=1)


def test_a_report_in_base64_may_have_other_line_ends() -> None:
    plain, encoded = FILES["international-base64"].split(b"Content-Transfer-Encoding: base64\n\n")
    block, end = encoded.split(b"\n\n", 1)
    other = base64.encodebytes(base64.b64decode(block).replace(b"\n", b"\r\n"))

    again = plain + b"Content-Transfer-Encoding: base64\n\n" + other + b"\n" + end

    assert read(again) == read(FILES["international-base64"])


def test_what_cannot_be_stored_is_replaced() -> None:
    [report] = read(report_with(f"Action: failed\nDiagnostic-Code: smtp; 550 a\0b {'x' * 9000}"))

    assert report.text.startswith("550 a\ufffdb x")
    assert len(report.text) <= 2000


def nested(depth: int) -> bytes:
    """Return parts in parts in parts."""
    open_parts = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (level, level) for level in range(depth)
    )
    return b"From: MAILER-DAEMON@mx.example\n" + open_parts + b"\n\ntext\n" * 100_000


HOSTILE: dict[str, Callable[[], bytes]] = {
    "30 MB of text": lambda: FILES["postfix-nocode"] + b"z" * 30_000_000,
    "30 MB of short lines": lambda: FILES["postfix-nocode"] + b"\n" * 30_000_000,
    "100,000 recipients": lambda: report_with(
        "Action: failed\n\n"
        + "\n\n".join(f"Final-Recipient: rfc822; a{n}@example.com\nAction: failed" for n in range(100_000))
    ),
    "100,000 parts": lambda: report_with("Action: failed").replace(b"--x--", b"--x\n\ntext\n" * 100_000),
    "1,000 parts in each other": lambda: nested(1000),
    "48 parts in each other, and many lines": lambda: nested(48),
    "mails in each other": lambda: b"From: MAILER-DAEMON@mx\n" + b"Content-Type: message/rfc822\n\n" * 50_000,
    "100,000 header fields": lambda: b"To: a@example.com\n" * 100_000 + FILES["qmail"],
    "a header field of 1 MB": lambda: b"Content-Type: multipart/mixed" + b";" * 990_000 + b"\n\n",
    "a folded field of 1 MB": lambda: b"Content-Type: multipart/mixed;\n" + b" a=b;\n" * 160_000 + b"\n\n",
    "a text that is nearly an address": lambda: (
        b"From: MAILER-DAEMON@mx\n\nHi. This is the\n\nYour message could not be delivered\n" + b"a" * 900_000
    ),
    "a text of many nearly addresses": lambda: (
        b"From: MAILER-DAEMON@mx\n\nA message that you sent could not be delivered\n" + b"  a.a.a.a.a.a.a.a   " * 50_000
    ),
    "a reply that is nearly a reply": lambda: report_with(
        "Action: failed\nDiagnostic-Code: smtp; " + "recipient has " * 60_000, "user " * 200_000
    ),
    "a text that names the recipient often": lambda: report_with(
        "\n\n".join(f"Action: failed\n\nFinal-Recipient: rfc822; ann{n}@example.com" for n in range(500)),
        "ann@example.com: " * 60_000,
    ),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_mail_takes_little_time(make: Callable[[], bytes]) -> None:
    raw = make()
    began = time.process_time()

    reports = read(raw)

    assert time.process_time() - began < 2
    assert len(reports) <= opened.MOST_BLOCKS


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 1000,
        b"\xff\xfe" * 1000,
        b"From MAILER-DAEMON Wed Nov 25 10:00:01 2026\n\n",
        b"Content-Type: multipart/report; boundary*=utf-8''%FF\n\n--x\n",
        b"Content-Type: multipart/report; boundary*9999999999999999=x\n\n",
        report_with("Action: failed").replace(b"utf-8", b"punycode"),
        report_with("Action: failed").replace(b"utf-8", b"no-such-charset"),
        report_with("Action: failed").replace(b"charset=utf-8", b"\nContent-Transfer-Encoding: base64"),
        report_with("Action: failed").replace(b"charset=utf-8", b"\nContent-Transfer-Encoding: x-uuencode"),
        report_with(r"Original-Recipient: utf-8; a\x{D800}\x{FFFFFF}\x{110000}\x{0}@example.com" + "\nAction: failed"),
    ],
)
def test_a_broken_mail_raises_nothing(raw: bytes) -> None:
    read(raw)


def test_a_mail_of_a_pipe_begins_with_a_line_of_mbox() -> None:
    raw = b"From MAILER-DAEMON  Wed Nov 25 10:00:01 2026\n" + FILES["postfix-full"]

    assert read(raw) == read(FILES["postfix-full"])


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([*FILES.values(), *NO_BOUNCES.values()]).flatmap(
        lambda raw: st.integers(0, len(raw)).map(lambda at: raw[at : at + 300])
    ),
    st.sampled_from(
        [b"\n\n", b"--", b"\0", b"\r", b"=", b";", b'"', b"\xc3", b"Content-Type: ", b"boundary=", b"<", b"@"]
    ),
)


@given(data=st.data())
def test_any_change_of_a_bounce_raises_nothing(data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from([*FILES.values(), *NO_BOUNCES.values()]))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(begin, min(len(raw), begin + 200)))
        raw = raw[:begin] + data.draw(PIECES) + raw[end:]

    for report in read(raw):
        assert len(report.event_id) == 64
        assert "\0" not in report.recipient + report.text + report.message_id
        assert len(report.recipient) <= 254
        assert report.at.tzinfo
