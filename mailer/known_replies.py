"""Replies whose words say what they are about, because code and status do not: limits of an account, rates, broken servers.

A table of data. Each row has an example, as the server says it, and its source. The first row that matches counts. New rows
need no code: `tests/mailer/test_known_replies.py` tries each example.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

LONGEST = 2000
"""Characters of a reply that are searched."""
UNKNOWN_USER = re.compile(
    r"\b(no such|unknown|invalid|non-?existent) (local )?(user|recipient|e-?mail|mailbox|person|account)\b|unrouteable address"
    r"|\b(user|recipient|mailbox)\b.{0,100}\b(unknown|not found|disabled|inactive|does(n't| not) exist)\b"
    r"|\bdoesn't have an? .{1,80} account",
    re.IGNORECASE,
)
"""Says that a recipient does not exist, in a reply without an enhanced status."""
NAMES_SENDER = re.compile(r"\bsender\b|\bfrom address\b|\bsend as\b|\bsend on behalf", re.IGNORECASE)
"""The reply is about the sender's address, also if it says "user unknown"."""


class About(StrEnum):
    """What a known reply is about."""

    MESSAGE = "message"
    """This message or its recipient, although the words look like a limit of the sender."""
    SESSION = "session"
    """This connection or transaction: the next one takes the message."""
    RATE = "rate"
    """Too many messages in a short time."""
    CONNECTIONS = "connections"
    """Too many connections at a time."""
    SYSTEM = "system"
    """The state of the mail system, as 4.3.x says it (RFC 3463, 3.4)."""
    SENDER = "sender"
    """The sender's address is not set up with this provider: each message's own, or everyone's if all have one sender."""
    LOGIN = "login"
    """A log-in that is missing or wrong."""
    QUOTA = "quota"
    """What an account may send in an hour or a day: it may send again after that."""
    ACCOUNT = "account"
    """A suspension, a bill, a quota of a month: a person has to change something."""


@dataclass(frozen=True, slots=True)
class Known:
    """A kind of reply. `words` is searched in "code text", without regard to case."""

    about: About
    example: str
    words: str
    source: str
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.words, re.IGNORECASE))


GOOGLE = "https://support.google.com/a/answer/3726730"
GOOGLE_RELAY = "https://support.google.com/a/answer/6140680"
MICROSOFT = "https://learn.microsoft.com/exchange/mail-flow-best-practices/non-delivery-reports-in-exchange-online"
MICROSOFT_SMTP = "https://learn.microsoft.com/exchange/troubleshoot/send-emails/smtp-submission-improvements"
SES = "https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html"
SES_ERRORS = "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages.html"
SES_API = "https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html"
POSTMARK = "https://postmarkapp.com/developer/api/overview#error-codes"
MAILGUN = "https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages"
BREVO = "https://developers.brevo.com/docs/how-it-works#error-codes"
SENDGRID = "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting"
SPARKPOST = "https://support.sparkpost.com/docs/faq/daily-and-monthly-quota-limits"
RESEND = "https://resend.com/docs/api-reference/errors"
POSTFIX = "Postfix, src/smtpd/smtpd.c"
HTTP = "RFC 9110, 15.5, and RFC 6585, 4"

TABLE: tuple[Known, ...] = (
    Known(  # first, because a provider's words follow
        About.LOGIN,
        " login.microsoftonline.com refuses a token (invalid_client): check client_id and client_secret",
        r"^ \S+ refuses a token \(",
        "mailer.transports.oauth",
    ),
    # About a message or its recipient
    Known(
        About.MESSAGE,
        "450 4.2.1 The user you are trying to contact is receiving mail too quickly.",
        r"user you are trying to contact",
        GOOGLE,
    ),
    Known(
        About.MESSAGE,
        "451 4.5.1 The recipient <a@shop.example> has exceeded their message rate limit. Try again later.",
        r"recipient\b.{0,200}\bha(s|ve) exceeded (their|its|his|the)",
        "Yandex, mx.yandex.ru",
    ),
    Known(
        About.MESSAGE,
        "451 4.7.1 Greylisting in action, please come back in 00:05:00",
        r"gr[ae]y-?list",
        "RFC 6647, 2.2",
    ),
    Known(
        About.MESSAGE,
        "552 5.2.2 <a@shop.example>: mailbox quota exceeded",
        r"\b[45]\.2\.2\b|mailbox (is )?(full|quota)|over ?quota",
        "RFC 3463, 3.3",
    ),
    Known(
        About.SESSION,
        "451 4.5.3 Too many messages in this session",
        r"\b(messages?|mails?|transactions|recipients)\b.{0,30}\b(in|per|on|for) ((this|one|a|each|smtp) ){0,2}"
        r"(session|connection)\b",
        "Postfix, Exim smtp_accept_max_per_connection, Yahoo",
    ),
    Known(
        About.SESSION,
        "552 Too many recipients",
        r"\btoo many recipients\b(?! from)",
        "RFC 5321, 4.5.3.1.10: the rest goes in another transaction, and 552 means 452",
    ),
    Known(
        About.SESSION,
        "503 5.5.1 Error: nested MAIL command",
        r"\bnested mail\b|\bsender already (given|specified)\b",
        f"{POSTFIX}; Exim, src/smtp_in.c; Sendmail, srvrsmtp.c",
    ),
    Known(About.MESSAGE, "421 4.7.0 Error: too many errors", r"too many errors", POSTFIX),
    # Quotas of an account
    Known(
        About.ACCOUNT,
        '429 {"statusCode":429,"name":"monthly_quota_exceeded"}',
        r"\bmonthly\b.{0,40}\b(limit|quota)\b|\bmonthly_quota_exceeded|\bsending limit \(monthly\)",
        f"{RESEND}; {SPARKPOST}",
    ),
    Known(
        About.QUOTA,
        "550 5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits go to ...",
        r"\b(daily|hourly)\b.{0,40}\b(limit|quota)\b",
        f"{GOOGLE}; {GOOGLE_RELAY} (daily SMTP relay limit); {SES} (daily message quota)",
    ),
    Known(
        About.QUOTA,
        "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message",
        r"SubmissionQuotaExceeded",
        MICROSOFT_SMTP,
    ),
    Known(
        About.QUOTA,
        "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients",
        r"\b5\.1\.90\b",
        MICROSOFT,
    ),
    Known(
        About.QUOTA,
        "421 Domain mg.shop.example is not allowed to send: recipient limit exceeded. try again after Thu, 1 Jan",
        r"\bis not allowed to send\b.{0,60}\blimit exceeded",
        MAILGUN,
    ),
    Known(
        About.QUOTA,
        "420 Domain mg.shop.example: Message or recipient limit reached",
        r"^420\b",
        f"{MAILGUN}; {SPARKPOST}",
    ),
    Known(About.QUOTA, "550 5.7.1 Exceed Sending Limit (daily)", r"\bexceed(ed)? sending limit", SPARKPOST),
    Known(
        About.QUOTA,
        '429 {"name":"daily_quota_exceeded","message":"You have reached your daily email sending quota."}',
        r"\bdaily_?quota_?exceeded",
        f"{RESEND}; {SES_API}",
    ),
    Known(
        About.QUOTA,
        "550 User a@shop.example has exceeded its 24-hour sending limit. Relay quota will reset in 21.99 hours.",
        r"\b24-hour sending limit|\brelay quota\b",
        "GoDaddy, smtpout.secureserver.net",
    ),
    Known(
        About.QUOTA,
        "450 Requested mail action not taken: mailbox unavailable Mail send limit exceeded.",
        r"\bsend limit exceeded",
        "IONOS, https://www.ionos.com/help",
    ),
    Known(
        About.QUOTA,
        "550 Domain shop.example has exceeded the max emails per hour (500/500 (100%)) allowed. Message discarded.",
        r"exceeded the max (emails|defers and failures) per hour",
        "cPanel and Exim, enforce_mail_permissions",
    ),
    # Accounts that a person must look at
    Known(
        About.ACCOUNT,
        "554 5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; Failed to process message",
        r"OutboundSpamException|\b5\.1\.92\b",
        MICROSOFT_SMTP,
    ),
    Known(About.ACCOUNT, "550 5.1.8 Access denied, bad outbound sender", r"bad outbound sender", MICROSOFT),
    Known(
        About.ACCOUNT,
        "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.",
        r"\b5\.7\.(50[1-3]|705|708|750|23[23])\b",
        MICROSOFT,
    ),
    Known(
        About.ACCOUNT,
        "554 Message rejected: Sending suspended for this account. For more information, please check the inbox of ...",
        r"sending (is |has been )?(suspended|paused) for this account",
        SES_ERRORS,
    ),
    Known(
        About.ACCOUNT,
        "400 An error occurred (AccountSendingPausedException) when calling the SendEmail operation: paused",
        r"SendingPaused|AccountSuspended|\bLimitExceededException",
        SES_API,
    ),
    Known(
        About.ACCOUNT,
        '422 {"ErrorCode":412,"Message":"While your account is pending approval, all recipient addresses must ..."}',
        r'"ErrorCode"\s*:\s*(10|405|412|413)\b',
        POSTMARK,
    ),
    Known(
        About.ACCOUNT,
        "421 Domain mg.shop.example is not allowed to send",
        r"\bis not allowed to send\b",
        MAILGUN,
    ),
    Known(
        About.ACCOUNT,
        '403 {"code":"permission_denied","message":"Your account is under validation."}',
        r"\baccount[ _](is[ _])?under[ _]validation",
        BREVO,
    ),
    Known(
        About.ACCOUNT,
        "502 5.7.0 Your SMTP account is not yet activated. Please contact us to request activation",
        r"\byour (\w+ )?account\b.{0,40}\b(suspended|disabled|blocked|locked|deactivated|restricted|limited|paused|pending"
        r"|closed|not (yet )?(been )?(activated|approved|active)|under review)\b",
        f"{BREVO}; Mailjet, Mailgun and others with other words for it",
    ),
    Known(
        About.ACCOUNT, "451 Authentication failed: Maximum credits exceeded", r"\bmaximum credits exceeded", SENDGRID
    ),
    Known(
        About.ACCOUNT,
        "550 5.4.6 Unusual sending activity detected. Please try after sometime.",
        r"unusual sending activity",
        "Zoho Mail, https://mail.zoho.com/UnblockMe",
    ),
    Known(About.ACCOUNT, '402 {"code":"not_enough_credits"}', r"^402\b", f"{HTTP}; {BREVO}"),
    Known(About.LOGIN, "530 5.7.0 Authentication Required", r"^53[0458]\b", "RFC 4954, 4 and 6"),
    Known(About.LOGIN, "401 Unauthorized", r"^401\b", HTTP),
    # Rates
    Known(
        About.RATE,
        "454 Throttling failure: Maximum sending rate exceeded.",
        r"\bthrottl(ing|ed)\b|ThrottlingException|TooManyRequests",
        f"{SES}; {SES_API}",
    ),
    Known(About.RATE, "450 4.7.1 Error: too much mail from 192.0.2.1", r"\btoo much mail from\b", POSTFIX),
    Known(About.RATE, "450 4.7.1 Error: too many recipients from 192.0.2.1", r"\btoo many recipients from\b", POSTFIX),
    Known(
        About.RATE, "450 4.2.1 Peak SMTP relay limit exceeded for customer.", r"\bpeak smtp relay limit", GOOGLE_RELAY
    ),
    Known(
        About.RATE,
        "421 4.7.28 Our system has detected an unusual rate of unsolicited mail originating from your IP address.",
        r"\bunusual rate of\b",
        GOOGLE,
    ),
    Known(
        About.RATE,
        "421 4.4.2 Message submission rate for this client has exceeded the configured limit",
        r"\bsubmission rate\b",
        "Microsoft Exchange, MessageRateLimit of a receive connector",
    ),
    Known(About.RATE, "429 Too Many Requests", r"^429\b", HTTP),
    Known(
        About.RATE,
        "451 4.7.1 Ratelimit exceeded, slow down",
        r"(?<![a-z])rate[ _-]?limit|\b(message|mail|recipient) rate\b|\bslow(er)? down\b|\bsending too (fast|quickly|many)\b"
        r"|\btoo frequent|\btoo many (messages|mails|e-?mails)\b|\bagain slower\b",
        "Exim ratelimit, rspamd, policyd and others",
    ),
    # Connections
    Known(
        About.CONNECTIONS,
        "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
        r"\bthread limit exceeded|\bconcurrent (smtp )?connections?\b",
        MICROSOFT_SMTP,
    ),
    Known(
        About.CONNECTIONS,
        "421 4.7.0 mail.example Error: too many connections from 192.0.2.1",
        r"\btoo many (concurrent |simultaneous |open )?(smtp )?(connections|sessions)\b",
        f"{POSTFIX}; Exim smtp_accept_max_per_host",
    ),
    # The state of the mail system
    Known(
        About.SYSTEM,
        "451 4.7.1 Service unavailable - try again later",
        r"^4(?!21)\d\d\b.{0,20}\bservice (is )?(currently |temporarily )?(unavailable|not available)",
        "Postfix, src/milter/milter8.c: a milter is away",
    ),
    Known(
        About.SYSTEM,
        "451 Temporary local problem - please try later",
        r"^451 temporary local (problem|error)",
        "Exim, src/smtp_in.c: a lookup or a disk is away",
    ),
    Known(
        About.SYSTEM,
        "454 4.7.1 <a@shop.example>: Relay access denied",
        r"^4(?!21).{0,400}\brelay(ing)? (access )?denied",
        "Postfix, defer_unauth_destination: the whole server, or a domain that it does not relay for",
    ),
    # Senders that are not set up
    Known(
        About.SENDER,
        "554 Message rejected: Email address is not verified. The following identities failed the check: ...",
        r"\b(address|domain|identity|identities|sender)\b.{0,80}\bnot (been )?verified\b|DomainNotVerified"
        r"|\bdomain is unverified\b",
        f"{SES_ERRORS}; {RESEND}",
    ),
    Known(
        About.SENDER,
        '422 {"ErrorCode":400,"Message":"The \'From\' address you supplied is not a Sender Signature on your account."}',
        r'"ErrorCode"\s*:\s*40[01]\b|\bsender signature\b',
        POSTMARK,
    ),
    Known(
        About.SENDER,
        "550 The from address does not match a verified Sender Identity.",
        r"\bverified sender identity\b|\bunauthenticated senders not allowed\b",
        SENDGRID,
    ),
    Known(
        About.SENDER,
        "554 Access denied: not authorized to perform ses:SendRawEmail",
        r"authorized to perform",
        SES_ERRORS,
    ),
    Known(About.SENDER, "403 Forbidden", r"^403\b", HTTP),
)


def about(code: str, text: str) -> About | None:
    """Return what the reply is about; None if its words are not known."""
    said = f"{code} {text}"[:LONGEST]
    return next((known.about for known in TABLE if known.pattern.search(said)), None)
