"""A mail server that is down is a patient: it is left alone, probed by one message at a time with growing pauses, and
spared the rest of the queue until it answers again."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.utils import timezone

from mailer import retry, transport
from mailer.conf import options
from mailer.models import Message, TransportState
from mailer.outcomes import Outcome, TransportDown

log = structlog.get_logger("mailer.transport")

LONGEST_PAUSE = timedelta(minutes=5)
"""Between two probes."""


@dataclass(frozen=True, slots=True)
class Route:
    """The transport to use. With `probing`, the end of a pause: one message is to find out whether it works again."""

    alias: str
    probing: datetime | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """No transport may be used before this moment."""

    until: datetime


def find_route() -> Route | Paused:
    """The first transport that works, the fallback if the other one is paused; changes nothing."""
    now = timezone.now()
    states = TransportState.objects.in_bulk()
    pauses = []
    for alias in transport.aliases():
        paused_until = states[alias].paused_until if alias in states else None
        if paused_until is None:
            return Route(alias)
        if paused_until <= now:
            return Route(alias, probing=paused_until)
        pauses.append(paused_until)
    return Paused(min(pauses))


def enter(route: Route) -> bool:
    """Whether this message may go that way: always, but for a probe, of which there is one until a lease has run out."""
    if route.probing is None:
        return True
    state = TransportState.objects.filter(alias=route.alias, paused_until=route.probing)
    return state.update(paused_until=timezone.now() + options().claim_lease) == 1


def report(route: Route, outcome: Outcome) -> None:
    """Draws the conclusions for the transport; writes only when it went down, or was probed."""
    if isinstance(outcome, TransportDown):
        _pause(route, outcome)
    elif route.probing is not None:
        _resume(route)


def postpone(message: Message, until: datetime) -> None:
    """Leaves a message to the sweep that comes after this moment; it spends no attempt."""
    Message.objects.waiting().filter(pk=message.pk).update(publish_at=until, handovers=0)


def _pause(route: Route, outcome: TransportDown) -> None:
    state, _ = TransportState.objects.get_or_create(alias=route.alias)
    failures = state.failures + 1 if route.probing else 1
    policy = retry.Policy(options().max_attempts, options().backoff_base, min(options().backoff_max, LONGEST_PAUSE))
    pause = retry.backoff(failures, policy)
    reason = f"{outcome.code} {outcome.text}".strip()
    # Of many messages that were under way when it went down, the first one pauses it; a probe always does.
    mine = TransportState.objects.filter(alias=route.alias)
    mine = mine if route.probing else mine.filter(paused_until=None)
    if mine.update(failures=failures, paused_until=timezone.now() + pause, reason=reason):
        line = log.error if outcome.misconfigured else log.warning
        line("transport paused", transport=route.alias, seconds=round(pause.total_seconds(), 1), reason=reason)


def _resume(route: Route) -> None:
    now = timezone.now()
    TransportState.objects.filter(alias=route.alias).update(failures=0, paused_until=None, reason="")
    released = Message.objects.waiting().filter(due_at__lte=now, publish_at__gt=now).update(publish_at=now)
    log.info("transport works again", transport=route.alias, released=released)
