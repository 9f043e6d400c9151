"""What each provider's own words for a failure mean, and where its events have them. A table of data.

Anymail has one type for what a provider calls hard, soft and blocked. The words are those of the providers' documentation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailer.models import Bounce, What


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one provider."""

    at: tuple[str, ...]
    """Where an event has them, from the general to the special."""
    hard: frozenset[str] = frozenset()
    soft: frozenset[str] = frozenset()
    policy: frozenset[str] = frozenset()


def _words(at: str, *, hard: str = "", soft: str = "", policy: str = "") -> Words:
    return Words(tuple(at.split()), *(frozenset(filter(None, each.split(", "))) for each in (hard, soft, policy)))


AMAZONS_HARD = "Permanent, NoEmail, Suppressed, OnAccountSuppressionList"
AMAZONS_POLICY = "MessageTooLarge, ContentRejected, AttachmentRejected, UnsubscribedRecipient"
WORDS = {
    "Amazon SES": _words(
        "eventType complaint.complaintFeedbackType bounce.bounceType bounce.bounceSubType",
        hard=AMAZONS_HARD,
        soft="Transient, MailboxFull",
        policy=AMAZONS_POLICY,
    ),
    "Brevo": _words("event", hard="hard_bounce, invalid_email", soft="soft_bounce", policy="blocked"),
    "MailerSend": _words("data.type", hard="hard_bounced", soft="soft_bounced"),
    "Mailgun": _words(
        "event-data.delivery-status.bounce-type event-data.reason",
        hard="hard, suppress-bounce",
        soft="soft",
        policy="espblock, suppress-complaint, suppress-unsubscribe",
    ),
    "Mailjet": _words(
        "hard_bounce error",
        hard="True, user unknown, invalid domain, no mail host, typofix",
        soft="False, quota exceeded, greylisted",
        policy="relay/access denied, blacklisted, spam reporter, sender blocked, content blocked, policy issue, preblocked, "
        "duplicate in campaign",
    ),
    "Mailtrap": _words("event bounce_category", hard="bounce, hard", policy="spam, policy"),
    "Mandrill": _words("event reject.reason", hard="hard_bounce, hard-bounce, invalid", soft="soft_bounce"),
    "Postal": _words("payload.status"),
    "Postmark": _words(
        "Type SuppressionReason",
        hard="HardBounce, BadEmailAddress",
        soft="SoftBounce",
        policy="SpamNotification, VirusNotification, Blocked, DMARCPolicy",
    ),
    "Resend": _words(
        "data.bounce.type data.bounce.subType", hard=AMAZONS_HARD, soft="Transient, MailboxFull", policy=AMAZONS_POLICY
    ),
    "SendGrid": _words("type", hard="bounce", soft="expired", policy="blocked"),
    "SparkPost": _words(
        "msys.*.bounce_class", hard="10, 30", soft="20, 21, 22, 24, 40, 70", policy="23, 25, 50, 51, 52, 53, 54"
    ),
    "Unisender Go": _words(
        "status delivery_info.delivery_status",
        hard="hard_bounced",
        soft="err_mailbox_full, err_unreachable, err_destination_misconfigured, err_delivery_failed, err_lost",
        policy="err_spam_rejected, err_spam_skipped, err_blacklisted, err_too_large, err_unsubscribed, err_skip_letter",
    ),
}
MEANT: dict[tuple[str, str], What | None] = {
    ("Amazon SES", "DeliveryDelay"): What.DELAYED,
    ("Amazon SES", "not-spam"): None,
    ("Amazon SES", "auth-failure"): None,
    ("Mailgun", "suppress-bounce"): What.DROPPED,
    ("Mailgun", "suppress-complaint"): What.DROPPED,
    ("Mailgun", "suppress-unsubscribe"): What.DROPPED,
    ("Postal", "HardFail"): What.BOUNCED,
    ("Postmark", "SpamNotification"): What.BOUNCED,  # of a filter; a person's is SpamComplaint
}
"""Where a word says something else than Anymail's type of the event. None: nothing happened to the mail."""
STATUS = {"Mailgun": "event-data.delivery-status.enhanced-code", "SendGrid": "status"}
"""Where the enhanced status is, if it is not in the text."""
IN_GENERAL = {"Postmark", "Resend"}
"""Their descriptions are about all bounces of a type, and not about this one."""
NO_WORDS = Words(())


def words(provider: str, event: Any) -> list[str]:
    """Return the provider's own words in an event as it sent it, from the general to the special."""
    found = (find(event, path) for path in WORDS.get(provider, NO_WORDS).at)
    return [str(value) for value in found if isinstance(value, str | int)]


def bounce(provider: str, found: Sequence[str]) -> Bounce:
    """Return what these words say about the address. The most special one that is known counts."""
    known = WORDS.get(provider, NO_WORDS)
    for word in reversed(found):
        for meaning, of_meaning in (
            (Bounce.HARD, known.hard),
            (Bounce.SOFT, known.soft),
            (Bounce.POLICY, known.policy),
        ):
            if word in of_meaning:
                return meaning
    return Bounce.NONE


def find(event: Any, path: str) -> Any:
    """Return what is at a path such as `data.type`, where `*` is the first of all names. None if there is nothing."""
    for name in path.split("."):
        if not isinstance(event, Mapping):
            return None
        event = next(iter(event.values()), None) if name == "*" else event.get(name)
    return event
