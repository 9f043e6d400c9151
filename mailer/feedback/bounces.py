"""Read a mail that came to the address for bounces: a pure function from octets to reports.

Delivery reports (RFC 3464, RFC 6533), complaints (RFC 5965), and the texts of older servers. Whatever else comes there
reports nothing: answers of people, vacation notes and challenges (RFC 3834), read receipts, reports about DMARC and TLS.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from hashlib import sha256
from itertools import chain, islice

from mailer.feedback import complaints, delivery_status, plain_bounces
from mailer.feedback.opened import ADDRESS, Opened, head, open_mail, value
from mailer.feedback.report import Report
from mailer.text import replace_unstorable

RETURNED = (
    *("message/rfc822", "message/global", "message/global-headers"),
    *("text/rfc822-headers", "message/rfc822-headers"),
)
"""The mail that was not delivered, or its header."""
SENT_TO = ("Delivered-To", "X-Original-To", "X-Delivered-To", "Envelope-To", "X-Envelope-To", "To")
MESSAGE_ID = re.compile(r"<[^<>\s]{1,248}>")
IN_TEXT = re.compile(r"^>?[ \t]*Message-ID:[ \t]*(<[^<>\s]{1,248}>)", re.IGNORECASE | re.MULTILINE)
LONGEST_REPLY = 2000
LONGEST_RECIPIENT = 254
MOST_ADDRESSES = 20
"""That `message_of` is asked about."""
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


def parse(raw: bytes, *, message_of: Callable[[str], int | None], to: Iterable[str] = ()) -> list[Report]:
    """Return a report for each recipient that the mail speaks of; nothing if it is no bounce. Raises nothing.

    `message_of` returns the primary key that a bounce address of ours holds, or None. It is asked about `to`, the addresses
    that the mail was delivered to, then about those in its header, and last about the sender of the returned mail.
    """
    mail = open_mail(raw)
    found = list(_reports(mail, _moment(mail))) if mail else []
    if mail is None or not found:
        return []
    addresses = islice(dict.fromkeys(chain(to, _addresses(mail))), MOST_ADDRESSES)
    message = next((key for key in map(message_of, addresses) if key is not None), None)
    named, identity = replace_unstorable(_message_id(mail)), _identity(mail)
    reports = [
        replace(_storable(report), event_id=_digest(identity, report), message=message, message_id=named)
        for report in found
    ]
    return list({report.event_id: report for report in reports}.values())


def _storable(report: Report) -> Report:
    """Cut what a server said, and replace what PostgreSQL refuses."""
    return replace(
        report,
        recipient=replace_unstorable(report.recipient)[:LONGEST_RECIPIENT],
        original_recipient=replace_unstorable(report.original_recipient)[:LONGEST_RECIPIENT],
        text=replace_unstorable(report.text)[:LONGEST_REPLY],
    )


def _reports(mail: Opened, at: datetime) -> Iterator[Report]:
    if mail.of_kind(*delivery_status.KINDS):
        return delivery_status.reports(mail, at)
    if mail.of_kind(complaints.KIND):
        return complaints.reports(mail, at)
    if mail.header.get_content_type() == "multipart/report":  # a read receipt, or a report about TLS
        return iter(())
    return chain(plain_bounces.reports(mail, at), complaints.of_hotmail(mail, at))


def _addresses(mail: Opened) -> Iterator[str]:
    """Yield the addresses to which the returned mail's sender wants its bounces."""
    own = mail.values(*SENT_TO)
    senders = [value(block, name) for block in _heads(mail) for name in ("X-Postfix-Sender", "Original-Mail-From")]
    returned = [value(header, "Return-Path") for header in _returned(mail)]
    return (found[0] for field in (*own, *senders, *returned) for found in ADDRESS.finditer(field))


def _heads(mail: Opened) -> Iterator[Message]:
    """Yield what each report says about the mail as a whole."""
    return (head(part.text) for part in mail.of_kind(*delivery_status.KINDS, complaints.KIND))


def _returned(mail: Opened) -> Iterator[Message]:
    return (head(part.text) for part in mail.of_kind(*RETURNED))


def _message_id(mail: Opened) -> str:
    """Return the Message-ID of the mail that was not delivered."""
    fields = [
        *(value(header, "Message-ID") for header in _returned(mail)),
        *(value(block, "X-Original-Message-ID") for block in _heads(mail)),
    ]
    texts = [found[1] for part in mail.parts if part.kind == "text/plain" for found in IN_TEXT.finditer(part.text)]
    threads = [found for field in mail.values("In-Reply-To", "References") for found in MESSAGE_ID.findall(field)[-1:]]
    found = (MESSAGE_ID.search(field) for field in (*fields, *texts, *threads))
    return next((each[0] for each in found if each), "")


def _moment(mail: Opened) -> datetime:
    """Return the time in its Date field, and the present if that is none or cannot be right."""
    now = datetime.now(UTC)
    try:
        date = parsedate_to_datetime(value(mail.header, "Date"))
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return date if EARLIEST < date < now + timedelta(days=1) else now
    except (ValueError, TypeError, OverflowError, IndexError):
        return now


def _identity(mail: Opened) -> str:
    """Return what the mail is known by when it is read again, perhaps in another way."""
    return value(mail.header, "Message-ID") or "\n".join(mail.values("From", "Date", "Subject", "To"))


def _digest(identity: str, report: Report) -> str:
    fact = "\0".join((identity, report.what, report.recipient, report.original_recipient))
    return sha256(fact.encode("utf-8", "replace")).hexdigest()
