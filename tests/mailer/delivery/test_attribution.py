"""Whose fault a refusal is: code and status where they say enough, known words, and the evidence of other messages."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailer.delivery import attribution
from mailer.delivery.attribution import FULL_MAILBOX, NOT_AGAIN, REFILL, Attribution, Fault
from mailer.delivery.evidence import ALONE, LATELY, Heard, Refused, gist
from mailer.outcomes import PermanentRefusal, Phase, TransientRefusal, TransportDown

MINE, HOME = 1, "shop.example"
POLICY = "554 5.7.1 <a@shop.example>: Client host rejected: Access denied"
NOT_MINE = "553 5.7.1 <shop@shop.example>: Sender address rejected: not owned by user"
BUSY = "450 4.7.1 <a@shop.example>: Recipient address rejected: try again later"

CONNECT, LOGIN, MAIL, RCPT, DATA, DOT = Phase


def refusal(reply: str, phase: Phase = RCPT, **fields: Any) -> Refused:
    """Return the outcome of a reply: for good if the code says so, and the transport's if it came before MAIL."""
    code, _, text = reply.partition(" ") if reply[:1].isdigit() else ("", "", reply)
    if phase in (CONNECT, LOGIN) or not code:
        return TransportDown(code, text, phase=phase, **fields)
    if code.startswith("5"):
        return PermanentRefusal(code, text, phase=phase, **fields)
    return TransientRefusal(code, text, phase=phase, **fields)


def refused(message: int, ago: float, reply: str = POLICY, domain: str = HOME, phase: Phase = RCPT) -> Heard:
    code, _, text = reply.partition(" ") if reply[:1].isdigit() else ("", "", reply)
    return Heard(message, domain, phase, code, text.replace("a@", "a***@"), is_accepted=False, seconds_ago=ago)


def accepted(message: int, ago: float, domain: str = HOME, seconds: float = 0.1) -> Heard:
    return Heard(message, domain, DOT, "250", "2.0.0 Ok: queued", is_accepted=True, seconds_ago=ago, seconds=seconds)


def attribute(
    reply: str, heard: Sequence[Heard] = (), phase: Phase = RCPT, domain: str = HOME, **fields: Any
) -> Attribution:
    return attribution.attribute(refusal(reply, phase, **fields), heard, message=MINE, domain=domain)


@pytest.mark.parametrize(
    ("reply", "phase", "fault"),
    [
        ("ConnectionRefusedError: [Errno 111]", CONNECT, Fault.TRANSPORT),
        ("TimeoutError: timed out", CONNECT, Fault.TRANSPORT),
        ("SSLCertVerificationError: certificate has expired", CONNECT, Fault.TRANSPORT),
        ("421 4.3.2 Service not available", CONNECT, Fault.TRANSPORT),
        ("421 4.7.0 too many connections", CONNECT, Fault.TRANSPORT),
        ("554 5.7.1 No SMTP service here", CONNECT, Fault.TRANSPORT),
        ("454 4.7.0 TLS not available due to local problem", CONNECT, Fault.TRANSPORT),
        ("454 4.7.0 Temporary authentication failure", LOGIN, Fault.TRANSPORT),
        ("SMTPServerDisconnected: Connection unexpectedly closed", LOGIN, Fault.TRANSPORT),
        ("SMTPNotSupportedError: SMTP AUTH extension not supported by server.", LOGIN, Fault.TRANSPORT),
        ("535 5.7.8 Error: authentication failed", LOGIN, Fault.ACCOUNT),
        ("530 5.7.0 Must issue a STARTTLS command first", LOGIN, Fault.ACCOUNT),
        ("550 5.7.1 Log-in refused", LOGIN, Fault.ACCOUNT),
        ("454 4.7.0 Daily quota exceeded for this account", LOGIN, Fault.QUOTA),
        ("454 Throttling failure: Daily message quota exceeded.", LOGIN, Fault.QUOTA),
        ("451 Authentication failed: Maximum credits exceeded", LOGIN, Fault.ACCOUNT),
        ("535 5.7.0 Daily limit for log-ins reached", LOGIN, Fault.ACCOUNT),
        ("421 Your account has been suspended", CONNECT, Fault.ACCOUNT),
    ],
)
def test_before_mail_no_message_is_at_fault(reply: str, phase: Phase, fault: Fault) -> None:
    mine = [refused(MINE, 20, reply, phase=phase), accepted(2, 100)]

    assert attribute(reply, phase=phase).fault is fault
    assert attribute(reply, mine, phase=phase).fault is fault


@pytest.mark.parametrize(
    ("reply", "ago", "fault"),
    [
        ("421 4.7.0 mail.example Error: too many connections from 192.0.2.1", 5, Fault.CONNECTIONS),
        ("421 Service not available", 5, Fault.CONNECTIONS),
        ("432 4.3.2 Concurrent connections limit exceeded", 5, Fault.CONNECTIONS),
        ("421 Service not available", 120, Fault.TRANSPORT),
        ("554 5.7.1 No SMTP service here", 5, Fault.TRANSPORT),
        ("TimeoutError: timed out", 5, Fault.TRANSPORT),
    ],
)
def test_a_greeting_that_refuses_while_others_are_accepted_is_about_connections(
    reply: str, ago: float, fault: Fault
) -> None:
    assert attribute(reply, [accepted(2, ago)], phase=CONNECT).fault is fault


@pytest.mark.parametrize("phase", [MAIL, RCPT, DATA, DOT])
@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("550 5.4.5 Daily user sending limit exceeded.", Fault.QUOTA),
        ("554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed", Fault.QUOTA),
        ("550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.", Fault.ACCOUNT),
        ("550 5.1.90 Your message can't be sent because you've reached your daily limit", Fault.QUOTA),
        ("454 Throttling failure: Daily message quota exceeded.", Fault.QUOTA),
        ("530 5.7.0 Authentication Required", Fault.ACCOUNT),
        ("454 Throttling failure: Maximum sending rate exceeded.", Fault.RATE),
        ("450 4.7.1 Error: too much mail from 192.0.2.1", Fault.RATE),
        ("550 5.7.1 You are sending too fast", Fault.RATE),
        ("432 4.3.2 Concurrent connections limit exceeded", Fault.RATE),
    ],
)
@pytest.mark.parametrize("heard", [[], [accepted(2, 1)], [refused(MINE, 30, POLICY), accepted(2, 1)]])
def test_limits_of_the_account_and_rates_are_known_by_their_words(
    reply: str, fault: Fault, phase: Phase, heard: list[Heard]
) -> None:
    assert attribute(reply, heard, phase=phase).fault is fault


@pytest.mark.parametrize(
    ("refusal", "fault"),
    [
        (PermanentRefusal("422", '{"ErrorCode":405,"Message":"Not allowed to send."}'), Fault.ACCOUNT),
        (
            PermanentRefusal("422", '{"ErrorCode":412,"Message":"While your account is pending approval, ..."}'),
            Fault.ACCOUNT,
        ),
        (
            PermanentRefusal("422", '{"ErrorCode":400,"Message":"not a Sender Signature on your account"}'),
            Fault.ACCOUNT,
        ),
        (PermanentRefusal("420", "Domain mg.shop.example: recipient limit"), Fault.QUOTA),
        (PermanentRefusal("400", "Domain mg.shop.example is not allowed to send: unverified"), Fault.ACCOUNT),
        (PermanentRefusal("400", '{"message":"Your account is under validation"}'), Fault.ACCOUNT),
        (
            PermanentRefusal("400", "An error occurred (AccountSendingPausedException) when calling SendEmail"),
            Fault.ACCOUNT,
        ),
        (
            PermanentRefusal("400", "An error occurred (AccountSuspendedException) when calling SendEmail"),
            Fault.ACCOUNT,
        ),
        (PermanentRefusal("400", "An error occurred (LimitExceededException) when calling SendEmail"), Fault.ACCOUNT),
        (PermanentRefusal("400", "An error occurred (Throttling) when calling SendEmail: rate"), Fault.RATE),
        (PermanentRefusal("400", "MessageRejected: Email address is not verified"), Fault.ACCOUNT),
        (TransportDown("401", "bad key", phase=Phase.LOGIN, misconfigured=True), Fault.ACCOUNT),
        (TransportDown("402", "unpaid", phase=Phase.LOGIN, misconfigured=True), Fault.ACCOUNT),
        (TransportDown("403", "Forbidden", phase=Phase.LOGIN, misconfigured=True), Fault.ACCOUNT),
        (TransportDown("503", "Service Unavailable"), Fault.TRANSPORT),
        (TransientRefusal("429", ""), Fault.RATE),
        (TransientRefusal("429", '{"name":"daily_quota_exceeded"}'), Fault.QUOTA),
        (TransientRefusal("500", "<html>oops</html>"), Fault.MESSAGE),
        (PermanentRefusal("400", '{"message":"to parameter is not a valid address"}'), Fault.MESSAGE),
        (PermanentRefusal("422", '{"ErrorCode":406,"Message":"Inactive recipient"}'), Fault.MESSAGE),
        (PermanentRefusal("", "recipient invalid", address_unknown=True), Fault.MESSAGE),
        (PermanentRefusal("550", "Boite inconnue", phase=RCPT, address_unknown=True), Fault.MESSAGE),
        (PermanentRefusal("550", "Boite inconnue", phase=RCPT), Fault.UNDECIDED),
    ],
)
def test_answers_of_apis(refusal: Refused, fault: Fault) -> None:
    assert attribution.attribute(refusal, [], message=MINE, domain=HOME).fault is fault


@pytest.mark.parametrize(
    ("reply", "phase", "patience"),
    [
        ("550 5.1.1 <a@shop.example>: Recipient address rejected: User unknown", RCPT, NOT_AGAIN),
        ("556 5.1.10 <a@shop.example>: Domain does not accept mail", RCPT, NOT_AGAIN),
        ("550 5.1.1 <a@shop.example>: User unknown", DOT, NOT_AGAIN),
        ("550 No such user here", RCPT, NOT_AGAIN),
        ("550 Unrouteable address", RCPT, NOT_AGAIN),
        ("550 5.4.1 <a@shop.example>: Recipient address rejected: Access denied", RCPT, NOT_AGAIN),
        ("550 5.2.1 The email account that you tried to reach is disabled", RCPT, NOT_AGAIN),
        ("552 5.2.2 <a@shop.example>: Quota exceeded (mailbox for user is full)", RCPT, FULL_MAILBOX),
        ("552 5.2.2 mailbox full", DOT, FULL_MAILBOX),
        ("552 Requested mail action aborted: exceeded storage allocation", RCPT, FULL_MAILBOX),
        ("552 5.3.4 Message size exceeds fixed limit", MAIL, NOT_AGAIN),
        ("552 Message size exceeds maximum permitted", MAIL, NOT_AGAIN),
        ("552 5.2.3 Your message exceeded the size limits", DOT, NOT_AGAIN),
        ("554 5.6.0 Message content rejected", DOT, NOT_AGAIN),
        ("554 5.7.1 Message rejected as spam", DOT, NOT_AGAIN),
        ("550 spam detected", DOT, NOT_AGAIN),
        ("553 5.6.7 SMTPUTF8 is required", RCPT, NOT_AGAIN),
    ],
)
@pytest.mark.parametrize(
    "heard", [[], [accepted(2, 5)], [refused(n, n) for n in range(2, 9)]], ids=["", "works", "refuses"]
)
def test_what_names_the_recipient_or_the_content_is_the_messages_at_once(
    reply: str, phase: Phase, patience: timedelta, heard: list[Heard]
) -> None:
    same = [replace(answer, code=reply[:3], text=reply[4:]) for answer in heard if not answer.is_accepted]
    for answers in (heard, same):
        verdict = attribute(reply, answers, phase=phase)

        assert (verdict.fault, verdict.patience) == (Fault.MESSAGE, patience)


@pytest.mark.parametrize(
    "reply",
    [
        "450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
        "452 4.2.2 The recipient's inbox is out of storage space",
        "450 4.2.0 <a@shop.example>: Recipient address rejected: Greylisted, see http://postgrey.example",
        "451 4.7.1 Greylisting in action, please come back in 00:05:00",
        "450 4.1.1 <a@shop.example>: unverified address",
        "451 4.4.1 Host not reachable",
        "452 4.5.3 Recipient limit per transaction",
        "421 4.7.0 Error: too many errors",
    ],
)
@pytest.mark.parametrize("others", [0, 1, 30])
def test_a_recipient_that_is_refused_for_now_is_the_messages(reply: str, others: int) -> None:
    verdict = attribute(reply, [refused(n, n, reply, domain=f"d{n}.example") for n in range(2, 2 + others)])

    assert (verdict.fault, verdict.patience) == (Fault.MESSAGE, None)


@pytest.mark.parametrize("phase", [MAIL, RCPT, DATA, DOT])
@pytest.mark.parametrize(
    "reply",
    [
        "452 4.3.1 Insufficient system storage",
        "451 4.3.0 Error: queue file write error",
        "451 4.3.5 Server configuration problem",
        "451 4.7.1 Service unavailable - try again later",
        "451 Temporary local problem - please try later",
        "454 4.7.1 <a@shop.example>: Relay access denied",
        "452 Insufficient system storage",
    ],
)
def test_the_state_of_the_mail_system_is_the_transports_unless_other_messages_pass(reply: str, phase: Phase) -> None:
    once = [refused(MINE, 30, reply)]

    assert attribute(reply, phase=phase).fault is Fault.TRANSPORT
    assert attribute(reply, [accepted(2, 1)], phase=phase).fault is Fault.TRANSPORT
    assert attribute(reply, once, phase=phase).fault is Fault.TRANSPORT
    assert attribute(reply, [*once, accepted(2, 40)], phase=phase).fault is Fault.TRANSPORT
    assert attribute(reply, [*once, accepted(2, 10)], phase=phase).fault is Fault.MESSAGE
    thrice = [refused(MINE, ago, reply) for ago in (100, 60, 30)]
    assert attribute(reply, [*thrice, accepted(2, 120)], phase=phase).fault is Fault.MESSAGE
    assert attribute(reply, [*thrice, refused(3, 5, reply), accepted(2, 120)], phase=phase).fault is Fault.TRANSPORT
    others = [refused(n, n, reply) for n in (3, 4, 5)]
    assert attribute(reply, [*once, accepted(2, 10), *others], phase=phase).fault is Fault.TRANSPORT


@pytest.mark.parametrize(
    "reply",
    [
        "421 4.7.0 closing",
        "421 4.3.2 Service not available",
        "421 Unexpected failure",
        "SMTPServerDisconnected: closed",
    ],
)
@pytest.mark.parametrize("phase", [MAIL, RCPT, DATA, DOT])
def test_a_connection_that_ends_after_mail_is_the_messages_until_another_message_shows_the_same(
    reply: str, phase: Phase
) -> None:
    mine = [refused(MINE, 100, reply), refused(MINE, 50, reply)]

    assert attribute(reply, phase=phase).fault is Fault.MESSAGE
    assert attribute(reply, mine, phase=phase).fault is Fault.MESSAGE
    assert attribute(reply, [*mine, accepted(2, 70)], phase=phase).fault is Fault.MESSAGE
    assert attribute(reply, [refused(2, 5, reply)], phase=phase).fault is Fault.TRANSPORT
    assert attribute(reply, [*mine, refused(2, 5, reply)], phase=phase).fault is Fault.TRANSPORT
    assert attribute(reply, [refused(2, 50, reply), accepted(3, 5)], phase=phase).fault is Fault.MESSAGE
    assert attribute(reply, [refused(2, 5, POLICY)], phase=phase).fault is Fault.MESSAGE


ONE_BY_ONE = [refused(n, 10 * n, BUSY, domain=f"d{n}.example") for n in (2, 3, 4)]


@pytest.mark.parametrize(
    ("heard", "fault"),
    [
        ([], Fault.MESSAGE),
        ([accepted(9, 90)], Fault.MESSAGE),
        ([*ONE_BY_ONE, accepted(9, 90)], Fault.RATE),
        ([*ONE_BY_ONE[:2], accepted(9, 90)], Fault.RATE),
        ([*ONE_BY_ONE[:1], accepted(9, 90)], Fault.MESSAGE),
        ([*ONE_BY_ONE, accepted(9, 25), accepted(8, 15)], Fault.RATE),
        ([*ONE_BY_ONE, *(accepted(n, n) for n in range(10, 39))], Fault.MESSAGE),
        ([replace(answer, message=2) for answer in ONE_BY_ONE], Fault.MESSAGE),
        ([replace(answer, seconds_ago=answer.seconds_ago + 60) for answer in ONE_BY_ONE], Fault.MESSAGE),
        ([replace(answer, text="4.2.0 Greylisted") for answer in ONE_BY_ONE], Fault.MESSAGE),
        # Nothing passes: the milter is dead, and it is not the rate
        (ONE_BY_ONE, Fault.TRANSPORT),
        ([*ONE_BY_ONE, accepted(9, 400)], Fault.TRANSPORT),
        # One domain
        ([refused(n, n, BUSY) for n in range(2, 40)], Fault.MESSAGE),
        ([*(refused(n, n, BUSY) for n in range(2, 40)), accepted(99, 90, "other.example")], Fault.MESSAGE),
        ([*(refused(n, n, BUSY) for n in range(2, 40)), accepted(99, 90)], Fault.RATE),
        (
            [*(refused(n, n, BUSY) for n in range(2, 40)), accepted(99, 90), accepted(98, 9, "other.example")],
            Fault.MESSAGE,
        ),
        ([refused(n, 20 * n, BUSY) for n in range(2, 40)], Fault.TRANSPORT),
        ([*(refused(n, 20 * n, BUSY) for n in range(2, 40)), accepted(99, 9, "other.example")], Fault.MESSAGE),
    ],
)
def test_the_same_refusal_for_now_of_several_messages_at_once_is_the_rate(heard: list[Heard], fault: Fault) -> None:
    verdict = attribute(BUSY, heard)

    assert (verdict.fault, verdict.patience) == (fault, None)


def test_twenty_mails_in_twenty_seconds() -> None:
    """Row 35: all refusals after the first two are the rate's."""
    heard = [accepted(n, 20 - n / 20) for n in range(2, 22)]
    faults = []
    for message in range(22, 30):
        verdict = attribution.attribute(refusal(BUSY), heard, message=message, domain=HOME)
        faults.append(verdict.fault)
        heard.append(refused(message, 10 - message / 10, BUSY))

    assert faults == [Fault.MESSAGE] * 2 + [Fault.RATE] * 6


@pytest.mark.parametrize("reply", [POLICY, NOT_MINE, "550 relay not permitted", "550 5.7.60 no permission to send as"])
@pytest.mark.parametrize("phase", [MAIL, RCPT])
class TestPolicy:
    """A policy that refuses for good at MAIL or RCPT: the message's, everyone's, or not known yet."""

    def test_a_first_refusal_is_undecided_even_if_the_transport_worked_a_moment_ago(
        self, reply: str, phase: Phase
    ) -> None:
        assert attribute(reply, phase=phase) == Attribution(Fault.UNDECIDED)
        assert attribute(reply, [accepted(2, 1)], phase=phase) == Attribution(Fault.UNDECIDED)

    def test_it_is_the_messages_as_soon_as_another_message_passes(self, reply: str, phase: Phase) -> None:
        mine = refused(MINE, 10, reply)

        assert attribute(reply, [accepted(2, 5), mine], phase=phase) == Attribution(Fault.MESSAGE, NOT_AGAIN)
        assert attribute(reply, [mine, accepted(2, 15)], phase=phase).fault is Fault.UNDECIDED
        assert attribute(reply, [accepted(MINE, 5), mine], phase=phase).fault is Fault.UNDECIDED

    def test_an_acceptance_that_had_begun_before_the_refusal_proves_nothing(self, reply: str, phase: Phase) -> None:
        """The client may have got on a block list while the body was transmitted."""
        mine = refused(MINE, 10, reply)

        assert attribute(reply, [accepted(2, 5, seconds=6), mine], phase=phase).fault is Fault.UNDECIDED

    def test_several_messages_to_different_domains_are_the_transports(self, reply: str, phase: Phase) -> None:
        two = [refused(2, 20, reply, domain="a.example"), refused(3, 30, reply, domain="b.example")]

        assert attribute(reply, two[:1], phase=phase) == Attribution(Fault.TRANSPORT)
        assert attribute(reply, [*two[:1], accepted(9, 60)], phase=phase).fault is Fault.UNDECIDED
        assert attribute(reply, [*two, accepted(9, 60)], phase=phase) == Attribution(Fault.TRANSPORT)
        assert attribute(reply, [*two, accepted(9, 10)], phase=phase).fault is Fault.UNDECIDED

    def test_several_messages_to_one_domain_are_the_transports_if_there_is_no_other_domain(
        self, reply: str, phase: Phase
    ) -> None:
        same = [refused(2, 20, reply), refused(3, 30, reply)]

        assert attribute(reply, same[:1], phase=phase).fault is Fault.UNDECIDED
        assert attribute(reply, same, phase=phase).fault is Fault.TRANSPORT
        assert attribute(reply, [*same, accepted(9, 60)], phase=phase).fault is Fault.TRANSPORT
        assert attribute(reply, [*same, accepted(9, 60, "other.example")], phase=phase).fault is Fault.UNDECIDED

    def test_messages_with_several_recipients_have_no_domain_in_common(self, reply: str, phase: Phase) -> None:
        many = [refused(n, n, reply, domain="") for n in (2, 3)]

        assert attribute(reply, [*many, accepted(9, 60)], phase=phase, domain="").fault is Fault.TRANSPORT

    def test_a_thousand_bad_messages_are_found_out_by_one_good_one(self, reply: str, phase: Phase) -> None:
        bad = [refused(n, 100 + n / 10, reply, domain=f"d{n}.example") for n in range(1, 1000)]
        again = [refused(n, n / 10, reply, domain=f"d{n}.example") for n in range(2, 200)]

        assert attribute(reply, bad, phase=phase).fault is Fault.TRANSPORT
        assert attribute(reply, [accepted(2000, 50), *bad], phase=phase).fault is Fault.MESSAGE
        assert attribute(reply, [*again, accepted(2000, 50), *bad], phase=phase).fault is Fault.MESSAGE

    def test_a_block_that_begins_in_the_middle_loses_nothing(self, reply: str, phase: Phase) -> None:
        """Row 38, after a hundred mails: whatever is refused since then is not failed."""
        heard = [accepted(n, 100 - n / 2, domain=f"d{n % 7}.example") for n in range(100, 200)]
        for message in range(200, 260):
            verdict = attribution.attribute(
                refusal(reply, phase), heard, message=message % 30, domain=f"d{message % 30}.example"
            )
            assert verdict.fault is (Fault.UNDECIDED if message < 202 else Fault.TRANSPORT)
            heard = [replace(answer, seconds_ago=answer.seconds_ago + 1) for answer in heard]
            heard.append(refused(message % 30, 0.5, reply, domain=f"d{message % 30}.example"))

    def test_a_message_that_is_alone_is_refused_for_good_after_some_minutes(self, reply: str, phase: Phase) -> None:
        mine = [refused(MINE, ago, reply) for ago in (620, 300, 100)]

        assert attribute(reply, mine[1:], phase=phase).fault is Fault.UNDECIDED
        assert attribute(reply, mine[::2] * 2, phase=phase).fault is Fault.UNDECIDED
        assert attribute(reply, [*mine[1:], *mine[1:]], phase=phase).fault is Fault.UNDECIDED
        assert attribute(reply, mine, phase=phase) == Attribution(Fault.MESSAGE, NOT_AGAIN)
        assert attribute(reply, [*mine[1:], accepted(9, 1000)], phase=phase) == Attribution(Fault.MESSAGE, NOT_AGAIN)
        assert attribute(reply, [refused(MINE, 30, reply)] * 3, phase=phase).fault is Fault.UNDECIDED

    def test_old_answers_are_no_evidence(self, reply: str, phase: Phase) -> None:
        old = [
            refused(MINE, LATELY + 20, reply),
            accepted(2, LATELY + 10),
            refused(3, LATELY + 5, reply, domain="a.example"),
        ]

        assert attribute(reply, old, phase=phase).fault is Fault.UNDECIDED

    def test_other_refusals_are_no_evidence(self, reply: str, phase: Phase) -> None:
        others = [refused(n, n, "550 5.1.1 User unknown", domain=f"d{n}.example") for n in range(2, 9)]

        assert attribute(reply, others, phase=phase).fault is Fault.UNDECIDED


@pytest.mark.parametrize(
    ("reply", "phase"),
    [
        ("550 5.1.1 <shop@shop.example>: Sender address rejected: User unknown", MAIL),
        ("550 5.1.1 <shop@shop.example>: User unknown", MAIL),
        ("550 5.1.0 <shop@shop.example>: Sender address rejected: User unknown", RCPT),
        ("550 5.1.8 <shop@shop.example>: Sender address rejected: Domain not found", RCPT),
        ("550 5.7.60 SMTP; Client does not have permissions to send as this sender", DOT),
        ("554 5.3.0 System not available", DOT),
        ("550 Sender verify failed: no such user", RCPT),
        ("503 5.5.1 nested MAIL command", MAIL),
        ("552 Too many recipients", RCPT),
        ("452 4.5.3 Too many recipients", RCPT),
        ("452 Too many recipients", RCPT),
        ("550 5.5.0 Too many messages in this session", RCPT),
    ],
)
def test_what_names_the_sender_the_system_or_the_session_is_not_the_recipients(reply: str, phase: Phase) -> None:
    said = refusal(reply, phase)
    if isinstance(said, PermanentRefusal):
        said = replace(said, address_unknown=True)

    assert attribution.attribute(said, [], message=MINE, domain=HOME).fault is Fault.UNDECIDED


def test_a_limit_of_recipients_is_never_for_good() -> None:
    assert attribute("550 5.5.3 Limit of recipients reached").fault is Fault.UNDECIDED


@pytest.mark.parametrize(
    "reply",
    [
        "554 Message rejected: Email address is not verified.",
        "550 The from address does not match a verified Sender Identity.",
    ],
)
def test_a_sender_that_is_not_set_up_is_the_accounts_unless_the_transport_accepts_others(reply: str) -> None:
    mine = refused(MINE, 30, reply)
    others = [refused(n, n, reply, domain=f"d{n}.example") for n in (2, 3)]

    assert attribute(reply, phase=DOT).fault is Fault.ACCOUNT
    assert attribute(reply, [mine] * 9, phase=DOT).fault is Fault.ACCOUNT
    assert attribute(reply, [*others, accepted(9, 60)], phase=DOT).fault is Fault.ACCOUNT
    assert attribute(reply, [accepted(9, 60)], phase=DOT).fault is Fault.UNDECIDED
    assert attribute(reply, [accepted(9, 10), mine], phase=DOT) == Attribution(Fault.MESSAGE, NOT_AGAIN)


@pytest.mark.parametrize(
    ("refusal", "pause"),
    [
        (TransientRefusal("429", "", retry_after=timedelta(seconds=7)), timedelta(seconds=7)),
        (TransientRefusal("429", ""), None),
        (
            PermanentRefusal("550", "User a has exceeded its 24-hour sending limit. It will reset in 21.5 hours."),
            timedelta(hours=21.5),
        ),
        (PermanentRefusal("550", "5.4.5 Daily user sending limit exceeded."), REFILL),
        (PermanentRefusal("550", "Too many messages. Try again in 92 seconds."), timedelta(seconds=92)),
        (TransportDown("535", "5.7.8 authentication failed", phase=LOGIN), None),
        (TransportDown("535", "5.7.8 Your account is suspended", phase=LOGIN), REFILL),
        (TransientRefusal("450", "4.2.0 Greylisted, try again after 5 minutes", phase=RCPT), timedelta(minutes=5)),
        (PermanentRefusal("550", "5.4.5 Daily sending limit, try again in 999999 hours"), timedelta(days=1)),
    ],
)
def test_the_pause_that_the_server_names(refusal: Refused, pause: timedelta | None) -> None:
    assert attribution.attribute(refusal, [], message=MINE, domain=HOME).pause == pause


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("5.7.1 <a@shop.example>: Relay access denied", "5.7.1 <b***@x.example>: Relay access denied", True),
        ("5.7.1 Relay access denied", "5.7.0 Relay access denied", False),
        ("relaying to <a@shop.example> prohibited", "relaying to <b***@else.example> prohibited", True),
        ("blocked, see http://rbl.example/?ip=192.0.2.1", "blocked, see http://rbl.example/?ip=2001:db8::1", True),
        ("try again at 12:30:01 (id 4F2A9B)", "try again at 12:30:02 (id 77AB01)", True),
        ("relaying prohibited", "no such user", False),
    ],
)
def test_two_replies_say_the_same(one: str, other: str, is_same: bool) -> None:
    assert (gist("550", one) == gist("550", other)) is is_same
    assert gist("550", one) != gist("554", one)
    assert gist("", one) == gist("", other)


REPLIES = [POLICY, NOT_MINE, BUSY, "550 5.1.1 User unknown", "421 4.7.0 closing", "452 4.3.1 full", "550 no", "closed"]
DOMAINS = ["", HOME, "a.example", "b.example"]
domains = st.sampled_from(DOMAINS)
agos = st.floats(0, 2 * LATELY)
answers = st.builds(
    refused, st.integers(1, 6), agos, st.sampled_from(REPLIES), domains, st.sampled_from(Phase)
) | st.builds(accepted, st.integers(1, 9), agos, domains, st.floats(0, 600))
histories = st.lists(
    answers.map(lambda answer: replace(answer, domain=DOMAINS[answer.message % len(DOMAINS)])), max_size=30
)
"""A message has one domain, whatever is said of it."""


@given(histories, st.sampled_from(["550 5.1.1 User unknown", "552 5.2.2 full", "554 5.7.1 spam"]))
def test_no_history_makes_what_is_about_the_message_anybody_elses(heard: list[Heard], reply: str) -> None:
    phase = DOT if "spam" in reply else RCPT

    assert attribute(reply, heard, phase=phase).fault is Fault.MESSAGE


@given(histories, st.sampled_from(REPLIES), st.randoms(use_true_random=False))
def test_order_and_repetition_of_the_history_change_nothing(heard: list[Heard], reply: str, random: Any) -> None:
    shuffled = [*heard, *heard[:5]]
    random.shuffle(shuffled)

    assert attribute(reply, shuffled) == attribute(reply, heard)


@given(histories, st.sampled_from([POLICY, NOT_MINE, "550 no"]), st.sampled_from([MAIL, RCPT]))
def test_once_another_message_passes_a_policy_is_the_messages(heard: list[Heard], reply: str, phase: Phase) -> None:
    later = [replace(answer, seconds_ago=answer.seconds_ago + 60) for answer in heard]

    first = attribute(reply, [*later, accepted(7, 1)], phase=phase)
    again = attribute(reply, [*later, refused(MINE, 30, reply), accepted(7, 1)], phase=phase)

    assert first.fault in (Fault.MESSAGE, Fault.UNDECIDED)
    assert again == Attribution(Fault.MESSAGE, NOT_AGAIN)


@given(histories, st.sampled_from([POLICY, NOT_MINE, "550 no"]), st.integers(10, 20), domains)
def test_a_further_message_that_is_refused_never_takes_the_blame_from_the_transport(
    heard: list[Heard], reply: str, message: int, domain: str
) -> None:
    newest = min((answer.seconds_ago for answer in heard if answer.is_accepted), default=1.0)
    more = [*heard, refused(message, newest / 2, reply, domain)]

    before, after = attribute(reply, heard).fault, attribute(reply, more).fault

    assert before is not Fault.TRANSPORT or after is Fault.TRANSPORT
    assert before is not Fault.UNDECIDED or after in (Fault.UNDECIDED, Fault.TRANSPORT)


@given(histories, st.sampled_from([POLICY, NOT_MINE, "550 no"]))
def test_no_message_is_undecided_for_ever(heard: list[Heard], reply: str) -> None:
    refusals, seconds = ALONE
    mine = [refused(MINE, seconds + n, reply) for n in range(refusals)]

    assert attribute(reply, [*heard, *mine]).fault is not Fault.UNDECIDED


@given(
    st.text(max_size=80),
    st.sampled_from([250, 354, 400, 421, 450, 500, 550, 599, 99]),
    st.sampled_from(Phase),
    histories,
)
def test_any_answer_is_attributed(text: str, code: int, phase: Phase, heard: list[Heard]) -> None:
    for outcome in (TransientRefusal, PermanentRefusal, TransportDown):
        attribution.attribute(outcome(str(code), text, phase=phase), heard, message=MINE, domain="")
