"""Pause a stream before mailbox providers reject it: too many of its recipients reported its mail as spam.

Gmail asks senders to stay below 0.1 %, and rejects the mail of those above 0.3 %. Both are shares of the mail of one day.
"""

from datetime import datetime, timedelta

import structlog

from mailer import database
from mailer.models import DeliveryEvent, Message, State, StreamReputation, What
from mailer.recipients import subscriptions
from mailer.text import clock

log = structlog.get_logger(__name__)

WINDOW = timedelta(days=1)
WARNING, LIMIT = 0.001, 0.003
"""A stream warns above the first share of its mail, and is paused above the second."""
FEWEST = 4
"""Fewer reports may be chance. If 4 are 0.3 % of the mail, it is 95 % certain that the true share is above 0.1 %: when 4 were
counted, the lower bound of a Poisson mean is 1.37."""
AGAIN = timedelta(minutes=1)
"""The mail of the day is counted again after this time, or when there is another report."""


def judge() -> None:
    """Count the reports about mail of the last day, and pause each stream that has too many. The sweep calls it."""
    now = database.now()
    complaints = DeliveryEvent.objects.filter(what=What.COMPLAINED, received_at__gt=now - WINDOW)
    if not complaints.exists() and not StreamReputation.objects.filter(complaints__gt=0, paused_since=None).exists():
        return
    streams = subscriptions.streams()
    StreamReputation.objects.bulk_create([StreamReputation(stream=name) for name in streams], ignore_conflicts=True)
    for row in StreamReputation.objects.filter(stream__in=streams, paused_since=None):
        _judge(row, now)


def _judge(row: StreamReputation, now: datetime) -> None:
    since = max(now - WINDOW, row.counts_from or now - WINDOW)
    sent = Message.objects.filter(kind__in=subscriptions.kinds_of(row.stream), state=State.SENT, settled_at__gt=since)
    reports = DeliveryEvent.objects.filter(what=What.COMPLAINED, received_at__gt=since, message__in=sent)
    complaints = reports.order_by().values("message__recipient").distinct().count()  # a person counts once
    if complaints == row.complaints and (not complaints or row.counted_at > now - AGAIN):
        return
    unchanged = StreamReputation.objects.filter(pk=row.pk, paused_since=None, counts_from=row.counts_from)
    was_high = is_high(row)
    row.complaints, row.sent, row.counted_at = complaints, sent.count() if complaints >= FEWEST else 0, now
    if is_high(row, LIMIT):
        row.paused_since, row.by_person, row.reason = now, False, _figures(row)
    changed = unchanged.update(**{name: getattr(row, name) for name in WRITTEN})
    if changed and is_high(row) and (row.paused_since or not was_high):
        line = log.error if row.paused_since else log.warning
        what = "stream paused" if row.paused_since else "much mail of a stream is reported as spam"
        line(what, stream=row.stream, complaints=row.complaints, sent=row.sent)


WRITTEN = ("complaints", "sent", "counted_at", "paused_since", "by_person", "reason")


def is_high(row: StreamReputation, limit: float = WARNING) -> bool:
    """Return whether more of the stream's mail was reported as spam than this share of it."""
    return row.rate is not None and row.rate > limit


def pause(stream: str, reason: str) -> None:
    """Have the mail of a stream wait until `resume` is called: a person decided it."""
    paused = {"paused_since": database.now(), "by_person": True, "reason": reason}
    StreamReputation.objects.update_or_create(stream=stream, defaults=paused)
    log.warning("stream paused by a person", stream=stream, reason=reason)


def resume(stream: str) -> bool:
    """Let the mail of a stream go on. Reports about mail that was sent before count no more. False if it was not paused."""
    paused = StreamReputation.objects.filter(stream=stream).exclude(paused_since=None)
    now = database.now()
    anew = {"complaints": 0, "sent": 0, "counted_at": now, "counts_from": now, "by_person": False, "reason": ""}
    if not paused.update(paused_since=None, **anew):
        return False
    log.info("stream resumed by a person", stream=stream)
    return True


def describe(row: StreamReputation) -> str:
    """Say that the stream is paused, since when and why; or else how much of its mail was reported as spam."""
    if row.paused_since is None:
        return f"Of the stream {row.stream!r}, {_figures(row)}. Above {_percent(LIMIT)} it is paused, and Gmail rejects it."
    reason = f": {row.reason.rstrip('. ')}" if row.reason else ""
    if row.by_person:
        since = f"has been paused by a person since {clock(row.paused_since)}"
        return f"The stream {row.stream!r} {since}{reason}. resume_stream continues it."
    return f"The stream {row.stream!r} is paused since {clock(row.paused_since)}{reason}. Resume it when the cause is found."


def _figures(row: StreamReputation) -> str:
    return f"{_percent(row.rate or 0)} of the mail was reported as spam ({row.complaints:,} of {row.sent:,} in a day)"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
