"""Store what the receiving side reports, and apply it: find the message, and stop mail to an address that gets none.

A report is stored first, so that whoever sent it is answered at once. It may come twice, in any order, before the outcome of
its own attempt is committed, or about a mail that is none of ours.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import structlog
from django.core.mail import mailers
from django.db import transaction
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Greatest, Now
from django.utils import timezone
from django.utils.module_loading import import_string

from mailer import email
from mailer.addresses import as_transmitted, canonical
from mailer.database import is_away
from mailer.feedback.report import Report
from mailer.mime import serializer
from mailer.models import (
    ALL_STREAMS,
    ERASED,
    PROVIDER_ID,
    RESPONSE_BEGINS,
    TOOK,
    Bounce,
    Cause,
    DeliveryAttempt,
    DeliveryEvent,
    Message,
    Outcome,
    What,
)
from mailer.recipients import search, suppression
from mailer.text import mask, replace_unstorable
from mailer.transports import anymail, staging

log = structlog.get_logger(__name__)

BATCH = 200
"""Reports that one transaction applies."""
MOST = 600
"""Reports that one call applies: whoever calls it has other work to do, and the next sweep goes on."""
MOST_OF_A_MAIL = 2_000
"""Reports about one mail that are kept with it, of those that come by mail: each recipient can write any number of them."""
PAUSE = timedelta(seconds=30)
"""The first pause until the message of a report is looked for again. The next ones are as long as the report is old."""
PATIENCE = timedelta(hours=2)
"""How long a message is looked for: longer than a worker keeps an outcome that it cannot record."""
LONGEST_TEXT, LONGEST_ADDRESS = 1_000, 254
SOFT_BOUNCES, SOFT_WINDOW = 5, timedelta(days=14)
"""So many mails that come back within this time, and none that is delivered, stop mail to an address."""
FORGOTTEN: dict[str, Any] = {"recipient": "", "original_recipient": "", "text": "", "about": {}}
"""What the report about an erased person holds."""
BOUNCE_MAIL = "bounce mail"
"""The source of reports that came by mail. Every other source is the name of a provider, as Anymail has it."""


def store(source: str, reports: Iterable[Report]) -> int:
    """Store reports in one statement, and return their number. One that is stored already, by its event id, is ignored."""
    rows = [_row(source, report) for report in reports]
    DeliveryEvent.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _row(source: str, report: Report) -> DeliveryEvent:
    about = {"message": report.message, "message_id": report.message_id, "provider_id": report.provider_id}
    never = {} if any(about.values()) else {"apply_at": None}  # no message can be found
    return DeliveryEvent(
        source=source,
        event_id=_fitting(report.event_id, 200),
        what=report.what,
        bounce=report.bounce,
        recipient=_one_spelling(report.recipient),
        original_recipient=_one_spelling(report.original_recipient),
        code=_fitting(report.code, 40),
        text=mask(_fitting(report.text, LONGEST_TEXT)),
        at=min(report.at, timezone.now()),  # the sender's clock may be wrong
        about={
            name: _fitting(value, 998) if isinstance(value, str) else value for name, value in about.items() if value
        },
        **never,
    )


def _fitting(text: str, length: int) -> str:
    return replace_unstorable(text)[:length]


def _one_spelling(address: str) -> str:
    """Return the address as it is transmitted, so that whoever is erased is found."""
    return as_transmitted(_fitting(address, LONGEST_ADDRESS))[:LONGEST_ADDRESS]


def apply_due() -> int:
    """Apply reports that are due, about MOST, and return their number. Several calls at once share the work."""
    applied = 0
    while applied < MOST and (batch := _apply_batch()):
        applied += batch
    return applied


@transaction.atomic
def _apply_batch() -> int:
    due = DeliveryEvent.objects.filter(apply_at__lte=Now()).order_by("apply_at")
    events = list(due.select_for_update(skip_locked=True, no_key=True)[:BATCH])
    for event in events:
        try:
            with transaction.atomic():
                applied = _apply(event)
        except Exception as error:
            if is_away(error):
                raise
            log.exception("a report could not be applied", report=event.pk)  # the others are not affected
            applied = False
        if not applied:
            _postpone(event)
    return len(events)


def _postpone(event: DeliveryEvent) -> None:
    """Look for its message again after a pause, or give it up."""
    row = DeliveryEvent.objects.filter(pk=event.pk)
    later = Now() + Greatest(Value(PAUSE), Now() - F("received_at"))
    if not row.filter(received_at__gt=Now() - PATIENCE).update(apply_at=later):
        row.update(apply_at=None)
        log.info("a report is about no message of ours", report=event.pk, source=event.source)


def _apply(event: DeliveryEvent) -> bool:
    """Return whether its message was found."""
    message = _message_of(event)
    if message is None:
        return False
    if event.source == BOUNCE_MAIL and message.events.count() >= MOST_OF_A_MAIL:
        DeliveryEvent.objects.filter(pk=event.pk).update(apply_at=None)
        log.warning("too many reports about one mail", **message.log_fields(), report=event.pk)
        return True
    changes = FORGOTTEN if message.arguments == ERASED else {}
    if event.at < message.created_at:  # the sender's clock is wrong
        changes = {**changes, "at": F("received_at")}
    DeliveryEvent.objects.filter(pk=event.pk).update(message=message, apply_at=None, **changes)
    log.info(
        "reported", **message.log_fields(), source=event.source, what=event.what, bounce=event.bounce, code=event.code
    )
    if address := _address(event, message):
        _stop_mail(event, message, address)
    return True


def _message_of(event: DeliveryEvent) -> Message | None:
    """Find the message that the report names, if it went through a transport of this source."""
    took = DeliveryAttempt.objects.filter(outcome__in=[*TOOK, Outcome.UNCERTAIN, Outcome.PENDING])
    if event.source != BOUNCE_MAIL:
        took = took.filter(transport__in=transports_of(event.source))
    for attempts in _attempts(event.about, took):
        found = {attempt.message_id: attempt.message for attempt in attempts.select_related("message")[:BATCH]}
        if found:
            return next(iter(found.values())) if len(found) == 1 else None
    return None


def _attempts(about: dict[str, Any], took: QuerySet[DeliveryAttempt]) -> Iterator[QuerySet[DeliveryAttempt]]:
    """Yield the attempts that each name of the mail stands for. A token of ours is the only name, whatever else is said."""
    match about:
        case {"message": number}:
            yield took.filter(message=number)
            return
    if message_id := about.get("message_id"):
        yield took.filter(message__message_id_header=message_id)
    if provider_id := about.get("provider_id"):
        answer = anymail.stored_id(provider_id)
        yield took.alias(begins=RESPONSE_BEGINS).filter(begins=answer, response__startswith=PROVIDER_ID)


def transports_of(provider: str) -> list[str]:
    """Return the aliases in MAILERS that send through this provider, which is named as Anymail names it."""
    backends = {alias: mailers.settings[alias].get("BACKEND", "") for alias in mailers.settings}
    return [alias for alias, path in backends.items() if path and _provider(path) == provider]


def _provider(path: str) -> str:
    return getattr(import_string(path), "esp_name", "")


def _address(event: DeliveryEvent, message: Message) -> str:
    """Return the address that we wrote to and that the report is about, or nothing if it is about another one.

    A mail that was forwarded comes back for the address that it was forwarded to. That may be anybody's, and some providers
    repeat it.
    """
    ours = _recipients(message)
    if not (named := _named(event)):  # complaints often hide it
        return ours[0] if len(ours) == 1 and staging.reaches(ours[0]) else ""
    compared = {canonical(each): each for each in ours}
    return next((compared[form] for form in named if form in compared and staging.reaches(form)), "")


def _named(event: DeliveryEvent) -> list[str]:
    """Return the addresses that the report names, the one that we wrote to first."""
    return [canonical(each) for each in (event.original_recipient, event.recipient) if each]


def _recipients(message: Message) -> list[str]:
    """Return all recipients. An empty one stands for those that are not known any more."""
    if message.payload:
        return serializer.recipients(bytes(message.payload.document))
    known = [*message.answers, *_copies(message), message.recipient]
    return list({canonical(each): each for each in known}.values())


def _copies(message: Message) -> list[str]:
    """Return who else gets a mail of this kind."""
    try:
        mail = email.find(message.kind).load(message.arguments)
        return [each.address for each in (*mail.cc(), *mail.bcc())]
    except Exception as error:  # the row that it refers to is gone, or the e-mail's own code raises
        if is_away(error):
            raise
        return [""]


def _stop_mail(event: DeliveryEvent, message: Message, address: str) -> None:
    """Suppress the address, if the report says that it gets no mail or wants none."""
    match event.what:
        case What.COMPLAINED:
            cause, stream = Cause.COMPLAINT, ""
        case What.UNSUBSCRIBED:
            cause, stream = Cause.UNSUBSCRIBE, _stream(message)
        case What.BOUNCED | What.DROPPED if event.bounce == Bounce.HARD:
            cause, stream = Cause.BOUNCE, ""
        case What.BOUNCED if event.bounce == Bounce.SOFT and _is_unreachable(address):
            cause, stream = Cause.BOUNCES, ""
        case _:
            return
    reason = f"{cause.label}: {event.said}" if event.said else cause.label
    suppression.suppress(address, reason, message, stream=stream, cause=cause, source=event.source)


def _stream(message: Message) -> str:
    """Return the stream of the message, or that of all streams if it has none: her other mail has to go on."""
    kind = email.KINDS.get(message.kind)
    return kind.stream.name if kind and kind.stream else ALL_STREAMS


def _is_unreachable(address: str) -> bool:
    """Return whether so many mails to the address came back lately, with none that was delivered between them."""
    since = Now() - SOFT_WINDOW
    lately = DeliveryEvent.objects.filter(message__in=search.messages_to(address), at__gt=since)
    newest = lately.filter(Q(what=What.DELIVERED) | Q(what=What.BOUNCED, bounce=Bounce.SOFT)).order_by("-at", "-pk")
    form, came_back = canonical(address), set()
    for event in newest[:BATCH]:
        if (named := _named(event)) and form not in named:
            continue  # it is about another recipient of the mail
        if event.what == What.DELIVERED:
            break
        came_back.add(event.message_id)
    return len(came_back) >= SOFT_BOUNCES
