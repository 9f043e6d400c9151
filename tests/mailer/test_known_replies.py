"""Replies whose words say what they are about: each row's own example, others in the same words, and what must not match."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailer.known_replies import LONGEST, TABLE, About, Known, about


@pytest.mark.parametrize("known", TABLE, ids=lambda known: known.example)
def test_each_example_is_known_and_no_earlier_row_takes_it(known: Known) -> None:
    code, _, text = known.example.partition(" ")

    assert known.pattern.search(known.example)
    assert about(code, text) is known.about
    assert known.source


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            "550 5.4.5 Daily sending quota exceeded. Learn more at https://support.google.com/a/answer/166852 - gsmtp",
            About.QUOTA,
        ),
        (
            "550 5.7.1 Daily SMTP relay limit exceeded for customer. For more information on SMTP relay ...",
            About.QUOTA,
        ),
        ("554 5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; Failed to process message", About.ACCOUNT),
        ("550 5.7.705 Access denied, tenant has exceeded threshold.", About.ACCOUNT),
        ("550 5.7.501 Access denied, spam abuse detected.", About.ACCOUNT),
        ("554 Message rejected: Sending paused for this account.", About.ACCOUNT),
        ("400 An error occurred (LimitExceededException) when calling the SendEmail operation", About.ACCOUNT),
        ("400 An error occurred (AccountSuspendedException) when calling the SendEmail operation", About.ACCOUNT),
        ('422 {"ErrorCode": 405, "Message": "Not allowed to send."}', About.ACCOUNT),
        ('422 {"ErrorCode":413,"Message":"Your account may not send"}', About.ACCOUNT),
        (
            '403 {"message": "Domain sandbox1.mailgun.org is not allowed to send: Free accounts are for test purposes"}',
            About.ACCOUNT,
        ),
        ("450 Your SMTP account is not yet activated. Please contact us at contact@brevo.com", About.ACCOUNT),
        ('401 {"ErrorMessage":"Your account has been temporarily blocked."}', About.ACCOUNT),
        ('401 {"errors":[{"message":"Maximum credits exceeded"}]}', About.ACCOUNT),
        ("535 5.7.8 Authentication failed: your account is suspended", About.ACCOUNT),
        ("535 5.7.0 Daily limit for log-ins reached", About.QUOTA),
        ('429 {"statusCode":429,"name":"monthly_quota_exceeded"}', About.ACCOUNT),
        ("550 5.7.1 Exceed Sending Limit (monthly)", About.ACCOUNT),
        ("550 5.7.1 Monthly sending limit exceeded", About.ACCOUNT),
        ("421 Domain mg.shop.example is not allowed to send: the account is disabled", About.ACCOUNT),
        ("550 Domain a.example has exceeded the max defers and failures per hour (5/5 (100%)) allowed.", About.QUOTA),
        ("535 5.7.8 Username and Password not accepted", About.LOGIN),
        ("530 Must issue a STARTTLS command first", About.LOGIN),
        ('429 {"name":"rate_limit_exceeded"}', About.RATE),
        ("421 4.7.0 Too many messages from 192.0.2.7, slow down", About.RATE),
        ("450 4.7.1 hostinger_out_ratelimit", About.RATE),
        ("421 4.7.0 mx.example Error: too many concurrent SMTP connections", About.CONNECTIONS),
        ("421 Too many simultaneous connections from this host", About.CONNECTIONS),
        ("421 Max message per connection reached", About.SESSION),
        ("421 Maximum number of messages per connection reached", About.SESSION),
        ("452 4.5.3 Too many recipients", About.SESSION),
        (
            "400 An error occurred (MailFromDomainNotVerifiedException) when calling the SendEmail operation",
            About.SENDER,
        ),
        ("403 The shop.example domain is not verified. Please, add and verify your domain", About.SENDER),
        # A limit of the recipient is none of ours
        ("552 5.2.2 The email account that you tried to reach is over quota.", About.MESSAGE),
        ("452 4.2.2 The recipient's inbox is out of storage space.", About.MESSAGE),
        (
            "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages",
            About.MESSAGE,
        ),
        ("550 Mailbox quota exceeded", About.MESSAGE),
        # Nothing about a limit
        ("250 2.0.0 Ok: queued as 4F2A9B", None),
        ("550 5.1.1 <a@shop.example>: Recipient address rejected: User unknown", None),
        ("550 5.2.1 The email account that you tried to reach is disabled", None),
        ("550 5.2.1 This account is suspended", None),
        ("552 5.3.4 Your message exceeded the size limit", None),
        ("552 5.2.3 Message size exceeds fixed maximum message size", None),
        ("554 5.7.1 <a@shop.example>: Relay access denied", None),
        ("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", None),
        ("421 4.3.2 Service not available, closing transmission channel", None),
        ("550 5.7.60 SMTP; Client does not have permissions to send as this sender", None),
        ("553 5.7.1 <a@shop.example>: Sender address rejected: not owned by user shop", None),
        ("450 4.7.1 Client host rejected: cannot find your hostname", None),
        ("451 4.3.5 Server configuration problem", None),
        ("554 5.7.1 Message rejected as spam: best rates for your mortgage", None),
        ("550 5.4.0 4010 messages", None),
    ],
)
def test_known_words(reply: str, expected: About | None) -> None:
    code, _, text = reply.partition(" ")

    assert about(code, text) is expected
    assert about(code, text.upper()) is expected


@given(st.text(max_size=300))
def test_any_text_has_an_answer(text: str) -> None:
    about("550", text)


@pytest.mark.parametrize(
    "word", ["recipient has ", "daily ", "address not ", "your account ", "messages in ", "4 relay ", "\0", " "]
)
def test_a_reply_of_megabytes_takes_no_time(word: str) -> None:
    began = time.process_time()
    about("450", word * (2_000_000 // len(word)))

    assert time.process_time() - began < 0.5
    assert LONGEST <= 2000
