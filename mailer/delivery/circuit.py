"""A mail server is treated with care: it gets no more messages in a second than it is meant to get, and one that is down is
left alone, probed by one message at a time with growing pauses, and spared the rest of the queue until it answers again."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db.models import Exists
from django.utils import timezone

from mailer import routes
from mailer.conf import options
from mailer.delivery import retry
from mailer.delivery.steps import Transport
from mailer.models import TransportState
from mailer.outcomes import Outcome, TransportDown

log = structlog.get_logger(__name__)

LONGEST_PAUSE = timedelta(minutes=5)
"""Between two probes."""


@dataclass(frozen=True, slots=True)
class Paused:
    """No transport may be used before this moment."""

    until: datetime


class NoSuchTransport(LookupError):
    """A message names a transport that is not configured here; newer code may know it."""


def is_any_paused() -> Exists:
    """For an annotation that spares nearly every message the query of `find_transport`."""
    return Exists(TransportState.objects.exclude(paused_until=None))


def find_transport(route: str = routes.DEFAULT) -> Transport | Paused:
    """The first transport of this route that works, the fallback if the other one is paused; changes nothing.

    Raises NoSuchTransport.
    """
    return _find_transport(route, TransportState.objects.in_bulk())


def find_transports() -> Mapping[str, Transport | Paused]:
    """The route of every route that there is."""
    states = TransportState.objects.in_bulk()
    return {route: _find_transport(route, states) for route in routes.names() if routes.transports(route)}


def first_transport(route: str) -> Transport:
    """The route while nothing is paused, which is found without a query. Raises NoSuchTransport."""
    return Transport(_aliases(route)[0])


def _find_transport(route: str, states: Mapping[str, TransportState]) -> Transport | Paused:
    now = timezone.now()
    pauses = []
    for alias in _aliases(route):
        paused_until = states[alias].paused_until if alias in states else None
        if paused_until is None:
            return Transport(alias)
        if paused_until <= now:
            return Transport(alias, probing=paused_until)
        pauses.append(paused_until)
    return Paused(min(pauses))


def _aliases(route: str) -> list[str]:
    if aliases := routes.transports(route):
        return aliases
    raise NoSuchTransport(f"MAILERS has no {route or routes.PRIMARY!r} in this release")


def enter(transport: Transport) -> bool:
    """Whether this message may go that route: always, but for a probe, of which there is one until a lease has run out."""
    if transport.probing is None:
        return True
    state = TransportState.objects.filter(alias=transport.alias, paused_until=transport.probing)
    return state.update(paused_until=timezone.now() + options().claim_lease) == 1


def leave(transport: Transport) -> None:
    """Gives back a probe that was not used, so that another message can be it at once."""
    if transport.probing is not None:
        TransportState.objects.filter(alias=transport.alias, paused_until__gt=timezone.now()).update(
            paused_until=transport.probing
        )


def report(transport: Transport, outcome: Outcome) -> None:
    """Draws the conclusions for the transport; writes only when it went down, or was probed."""
    if isinstance(outcome, TransportDown):
        _pause(transport, outcome)
    elif transport.probing is not None:
        _resume(transport)


def _pause(transport: Transport, outcome: TransportDown) -> None:
    state, _ = TransportState.objects.get_or_create(alias=transport.alias)
    failures = state.failures + 1 if transport.probing else 1
    policy = retry.Policy(options().max_attempts, options().backoff_base, min(options().backoff_max, LONGEST_PAUSE))
    pause = retry.backoff(failures, policy)
    reason = f"{outcome.code} {outcome.text}".strip()
    # Of many messages that were under route when it went down, the first one pauses it; a probe always does.
    mine = TransportState.objects.filter(alias=transport.alias)
    mine = mine if transport.probing else mine.filter(paused_until=None)
    if mine.update(failures=failures, paused_until=timezone.now() + pause, reason=reason):
        line = log.error if outcome.misconfigured else log.warning
        line("transport paused", transport=transport.alias, seconds=round(pause.total_seconds(), 1), reason=reason)


def _resume(transport: Transport) -> None:
    TransportState.objects.filter(alias=transport.alias).update(failures=0, paused_until=None, reason="")
    log.info("transport works again", transport=transport.alias)
