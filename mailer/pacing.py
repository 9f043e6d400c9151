"""A mail server is treated with care: it gets no more messages in a second than it is meant to get, and one that is down is
left alone, probed by one message at a time with growing pauses, and spared the rest of the queue until it answers again."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import connection
from django.db.models import Exists
from django.utils import timezone

from mailer import retry, transport
from mailer.conf import options
from mailer.models import Message, Queue, TransportState
from mailer.outcomes import Outcome, TransportDown

log = structlog.get_logger("mailer.transport")

LONGEST_PAUSE = timedelta(minutes=5)
"""Between two probes."""

LONGEST_WAIT = {
    Queue.CRITICAL: timedelta(seconds=10),
    Queue.DEFAULT: timedelta(seconds=5),
    Queue.BULK: timedelta(seconds=5),
}
"""For how long a worker keeps a message in its hands until the rate lets it go. Critical ones may book slots further ahead,
so that a crowd of the others never stands in their way."""

# A virtual clock (GCRA, ITU-T I.371): each message moves it on by one interval, and may go when it is not too far ahead.
BOOK_SLOT = f"""
INSERT INTO {TransportState._meta.db_table} AS transport (alias, failures, reason, slot_at)
VALUES (%(alias)s, 0, '', now() + %(interval)s)
ON CONFLICT (alias) DO UPDATE SET slot_at = greatest(transport.slot_at, now()) + %(interval)s
    WHERE transport.slot_at IS NULL OR transport.slot_at <= now() + %(longest_wait)s
RETURNING extract(epoch FROM slot_at - %(interval)s - clock_timestamp())
"""  # noqa: S608 - the name is our own model's


@dataclass(frozen=True, slots=True)
class Route:
    """The transport to use. With `probing`, the end of a pause: one message is to find out whether it works again."""

    alias: str
    probing: datetime | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """No transport may be used before this moment."""

    until: datetime


class NoSuchTransport(LookupError):
    """A message names a transport that is not configured here; newer code may know it."""


def is_any_paused() -> Exists:
    """For an annotation that spares nearly every message the query of `find_route`."""
    return Exists(TransportState.objects.exclude(paused_until=None))


def find_route(way: str = transport.USUAL) -> Route | Paused:
    """The first transport of this way that works, the fallback if the other one is paused; changes nothing.

    Raises NoSuchTransport.
    """
    return _find_route(way, TransportState.objects.in_bulk())


def find_routes() -> Mapping[str, Route | Paused]:
    """The route of every way that there is."""
    states = TransportState.objects.in_bulk()
    return {way: _find_route(way, states) for way in transport.ways() if transport.aliases(way)}


def first_route(way: str) -> Route:
    """The route while nothing is paused, which is found without a query. Raises NoSuchTransport."""
    return Route(_aliases(way)[0])


def _find_route(way: str, states: Mapping[str, TransportState]) -> Route | Paused:
    now = timezone.now()
    pauses = []
    for alias in _aliases(way):
        paused_until = states[alias].paused_until if alias in states else None
        if paused_until is None:
            return Route(alias)
        if paused_until <= now:
            return Route(alias, probing=paused_until)
        pauses.append(paused_until)
    return Paused(min(pauses))


def _aliases(way: str) -> list[str]:
    if aliases := transport.aliases(way):
        return aliases
    raise NoSuchTransport(f"MAILERS has no {way or transport.PRIMARY!r} in this release")


def enter(route: Route) -> bool:
    """Whether this message may go that way: always, but for a probe, of which there is one until a lease has run out."""
    if route.probing is None:
        return True
    state = TransportState.objects.filter(alias=route.alias, paused_until=route.probing)
    return state.update(paused_until=timezone.now() + options().claim_lease) == 1


def leave(route: Route) -> None:
    """Gives back a probe that was not used, so that another message can be it at once."""
    if route.probing is not None:
        TransportState.objects.filter(alias=route.alias, paused_until__gt=timezone.now()).update(
            paused_until=route.probing
        )


def book_slot(alias: str, longest_wait: timedelta) -> float | None:
    """Books the next moment at which a message may go to this transport, and returns the seconds until then.

    None, and nothing is booked, if that is further away than `longest_wait`.
    """
    rate = options().rate_per_second
    if rate is None:
        return 0.0
    values: dict[str, Any] = {
        "alias": alias,
        "interval": timedelta(seconds=1 / rate),
        "longest_wait": longest_wait,
    }
    with connection.cursor() as cursor:
        cursor.execute(BOOK_SLOT, values)
        booked = cursor.fetchone()
    return max(float(booked[0]), 0.0) if booked else None


def report(route: Route, outcome: Outcome) -> None:
    """Draws the conclusions for the transport; writes only when it went down, or was probed."""
    if isinstance(outcome, TransportDown):
        _pause(route, outcome)
    elif route.probing is not None:
        _resume(route)


def postpone(message: Message) -> None:
    """Leaves a message to the sweep, which hands over as many as can be sent; it spends no attempt."""
    Message.objects.waiting().filter(pk=message.pk).update(publish_at=timezone.now(), handovers=0)


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
    TransportState.objects.filter(alias=route.alias).update(failures=0, paused_until=None, reason="")
    log.info("transport works again", transport=route.alias)
