"""Read what a provider reports, from the events that Anymail makes of its webhooks. Nothing that is in an event raises."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import structlog
from anymail.signals import AnymailInboundEvent, AnymailTrackingEvent, EventType, RejectReason

from mailer.feedback import bounces, provider_words
from mailer.feedback.provider_words import IN_GENERAL, MEANT, STATUS, find
from mailer.feedback.report import Report
from mailer.feedback.verdict import judge
from mailer.models import Bounce, What
from mailer.transports import anymail, verp

log = structlog.get_logger(__name__)

KINDS = {
    EventType.DELIVERED: What.DELIVERED,
    EventType.DEFERRED: What.DELAYED,
    EventType.BOUNCED: What.BOUNCED,
    EventType.REJECTED: What.DROPPED,
    EventType.FAILED: What.DROPPED,
    EventType.COMPLAINED: What.COMPLAINED,
    EventType.UNSUBSCRIBED: What.UNSUBSCRIBED,
    EventType.OPENED: What.OPENED,
}
"""What else Anymail reports is not stored: that a provider took the mail, clicks, vacation notes, people who subscribe."""

BAD_ADDRESS = {RejectReason.INVALID, RejectReason.BOUNCED}
FULL = "5.2.2"
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), timedelta(days=1)


def report(provider: str, event: AnymailTrackingEvent) -> Report | None:
    """Return what the event reports, or None if it is about nothing that we keep, or names no mail."""
    words = provider_words.words(provider, event.esp_event)
    meant = (MEANT[provider, word] for word in words if (provider, word) in MEANT)
    what = next(meant, KINDS.get(event.event_type))
    message, provider_id, message_id = _message(event), _text(event.message_id), _message_id(provider, event)
    if what is None or not (message or provider_id or message_id):
        return None
    said = _text(event.mta_response)
    bounce, code = _bounce(provider, event, what, words)
    recipient = _recipient(provider, event, what)
    return Report(
        event_id=_event_id(provider, event, what, recipient),
        what=what,
        at=_moment(event.timestamp),
        recipient=recipient,
        bounce=bounce,
        code=code,
        text=said or _text(event.description),
        message=message,
        message_id=message_id,
        provider_id=provider_id,
    )


def bounced(event: AnymailInboundEvent) -> list[Report]:
    """Return what a mail reports that the provider received for us: nothing if it is no bounce."""
    mail = event.message
    if mail is None:
        return []
    try:
        raw = mail.as_bytes()
    except Exception as error:  # the standard library raises many things for a mail that is not well formed
        log.warning("a mail cannot be read", error=type(error).__name__)
        return []
    return bounces.parse(raw, message_of=verp.message_of, to=filter(None, [_text(mail.envelope_recipient)]))


def _bounce(provider: str, event: AnymailTrackingEvent, what: What, words: list[str]) -> tuple[Bounce, str]:
    """Return what a failure says about the address, and the code of the server."""
    own = provider_words.bounce(provider, words)
    if what == What.DROPPED:
        is_hard = own == Bounce.HARD or (not own and event.reject_reason in BAD_ADDRESS)
        return (Bounce.HARD if is_hard else Bounce.NONE), ""
    if what != What.BOUNCED:
        return Bounce.NONE, ""
    status = _text(find(event.esp_event, STATUS.get(provider, "")))
    description = "" if provider in IN_GENERAL else _text(event.description)
    judged, code = judge(status, _text(event.mta_response), description)
    return _weigh(own, judged, code), code


def _weigh(own: Bounce, judged: Bounce, code: str) -> Bounce:
    """Weigh the provider's own word against the reply of the server, which says whether it refuses the mail or the address."""
    if Bounce.POLICY in (own, judged):
        return Bounce.POLICY
    if own == Bounce.HARD:
        return Bounce.SOFT if code.startswith("4") or code == FULL else Bounce.HARD
    return own or judged


def _recipient(provider: str, event: AnymailTrackingEvent, what: What) -> str:
    """Return the address that the event is about; empty if the provider only lists who may be meant."""
    complained = find(event.esp_event, "complaint.complainedRecipients")
    is_one_of_many = isinstance(complained, list) and len(complained) > 1
    if provider == "Resend" or (provider == "Amazon SES" and (what == What.OPENED or is_one_of_many)):
        return ""
    return _text(event.recipient)


def _message(event: AnymailTrackingEvent) -> int | None:
    token = _text(event.metadata.get(anymail.METADATA)) if isinstance(event.metadata, Mapping) else ""
    return verp.read(token)


def _message_id(provider: str, event: AnymailTrackingEvent) -> str:
    """Return our Message-ID, of a provider that takes no metadata."""
    if provider != "Postal":
        return ""
    found = (find(event.esp_event, f"payload.{mail}.message_id") for mail in ("message", "original_message"))
    return next((f"<{each.strip('<>')}>" for each in found if isinstance(each, str) and each), "")


def _event_id(provider: str, event: AnymailTrackingEvent, what: What, recipient: str) -> str:
    """Return a digest of what stays the same when the provider repeats the event.

    Amazon SES has one id for all recipients. Mailgun's, as Anymail has it, is of the request.
    """
    own = find(event.esp_event, "event-data.id") if provider == "Mailgun" else event.event_id
    facts = (what.value, _text(own), _text(event.message_id), recipient, str(event.timestamp))
    return sha256(repr(facts).encode()).hexdigest()


def _moment(timestamp: object) -> datetime:
    """Return when it happened: in UTC if it has no zone, and now if it is missing or cannot be right."""
    now = datetime.now(UTC)
    if not isinstance(timestamp, datetime):
        return now
    moment = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
    return moment if EARLIEST < moment < now + LATEST else now


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
