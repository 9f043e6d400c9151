"""The timeline of a message: what happened to it, to the second."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType

from mailer import routes
from mailer.delivery.explain import BAD_NEWS, Facts, Level
from mailer.models import TOOK, DeliveryAttempt, DeliveryEvent, Message, Outcome, State, What
from mailer.text import clock

SHOWN = timedelta(seconds=1)
"""Shorter pauses are not shown."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened."""

    at: datetime
    what: str
    detail: str = ""
    level: Level | str = ""
    until: datetime | None = None
    """When it ended, if it took some time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A moment as the page shows it."""

    moment: Moment
    pause: str
    """The time since the moment before, if it is worth showing."""


def timeline(message: Message, known: Facts) -> list[Entry]:
    """Return what happened, the earliest moment first."""
    moments = sorted(_moments(message, known), key=lambda moment: moment.at)
    ends = [moment.until or moment.at for moment in moments]
    pauses = ["", *(_pause(moment.at - end) for end, moment in zip(ends, moments[1:], strict=False))]
    return [Entry(moment, pause) for moment, pause in zip(moments, pauses, strict=True)]


def _moments(message: Message, known: Facts) -> Iterator[Moment]:
    yield Moment(message.created_at, "Asked for")
    if message.first_due_at - message.created_at >= SHOWN:
        yield Moment(message.first_due_at, "Due")
    yield from map(_of_attempt, known.attempts)
    yield from map(_of_event, known.events)
    yield from _pressed(message)
    for copy in message.resent_as.all():
        yield Moment(copy.created_at, f"Sent again as message {copy.pk}", str(copy.get_state_display()))
    if message.settled_at:
        level = {State.SENT: Level.WELL, State.FAILED: Level.BAD}.get(State(message.state), Level.ENDED)
        yield Moment(message.settled_at, f"Settled: {message.get_state_display()}", message.reason, level)


def _of_attempt(attempt: DeliveryAttempt) -> Moment:
    details = [attempt.get_taken_display(), f"through {server(attempt.transport)}"]
    details += [f"from {attempt.worker}" if attempt.worker else ""]
    if attempt.finished_at:
        took = (attempt.finished_at - attempt.started_at).total_seconds()
        details += [f"{took * 1000:.0f} ms", f"step: {attempt.phase}" if attempt.phase else ""]
        details += [f"{attempt.code} {attempt.response}".strip()]
    else:
        details += ["in progress"]
    what = f"Attempt {attempt.number}: {attempt.get_outcome_display()}"
    return Moment(
        attempt.started_at, what, " · ".join(filter(None, details)), _level(attempt), until=attempt.finished_at
    )


def _of_event(event: DeliveryEvent) -> Moment:
    level = {What.DELIVERED: Level.WELL, What.DELAYED: Level.WAITING} | dict.fromkeys(BAD_NEWS, Level.BAD)
    details = [
        event.recipient,
        event.get_bounce_display() if event.bounce else "",
        f"{event.code} {event.text}".strip(),
    ]
    details += [f"said by {event.source}, and read at {clock(event.received_at)}"]
    what = str(event.get_what_display()).capitalize()
    return Moment(event.at, what, " · ".join(filter(None, details)), level.get(What(event.what), ""))


def _level(attempt: DeliveryAttempt) -> Level:
    if attempt.outcome in TOOK:
        return Level.WELL
    return Level.BAD if attempt.outcome == Outcome.REFUSED_FOR_GOOD else Level.WAITING


def server(alias: str) -> str:
    """Return the name of a transport, with the host and port of its server if it has one."""
    address = routes.server(alias)
    return f"{alias} ({address})" if address else alias


def _pressed(message: Message) -> Iterator[Moment]:
    """What people pressed. Django keeps it for the page HISTORY."""
    about = ContentType.objects.get_for_model(Message)
    entries = LogEntry.objects.filter(content_type=about, object_id=str(message.pk)).select_related("user")
    for entry in entries:
        yield Moment(entry.action_time, f"{entry.user.get_username()} pressed: {entry.get_change_message()}")


def _pause(pause: timedelta) -> str:
    seconds = round(pause.total_seconds())
    if pause < SHOWN:
        return ""
    parts = [(seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60 if seconds < 3600 else 0, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
