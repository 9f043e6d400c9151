"""Circuit breaker for transports, shared by all workers: pause a transport that is down, then probe it with one message.

The pauses between probes grow, and other messages wait or take the fallback until a probe is answered.
"""

from collections.abc import Mapping
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


class NoSuchTransport(LookupError):
    """The message names a transport that is not configured here; newer code may know it."""


def is_any_paused() -> Exists:
    """Return an annotation: whether any transport is paused. If none is, `pauses` need not query."""
    return Exists(TransportState.objects.exclude(paused_until=None))


def pauses() -> Mapping[str, datetime]:
    """Return the paused transports, each with the end of its pause, which may be in the past."""
    rows = TransportState.objects.exclude(paused_until=None).values_list("alias", "paused_until")
    return {alias: until for alias, until in rows if until}


def find_transport(route: str, paused: Mapping[str, datetime]) -> Transport | None:
    """Return the first transport of the route that is not paused, or None. Raises NoSuchTransport."""
    aliases = routes.transports(route)
    if not aliases:
        raise NoSuchTransport(f"MAILERS has no {route or routes.PRIMARY!r} in this release")
    now = timezone.now()
    for alias in aliases:
        if alias not in paused:
            return Transport(alias)
        if paused[alias] <= now:
            return Transport(alias, probing=paused[alias])
    return None


def begin_probe(transport: Transport) -> bool:
    """Claim the probe of a transport. False if another message claimed it; True if no probe is needed.

    The probe ends with `release_probe`, with `report`, or when a lease has run out.
    """
    if transport.probing is None:
        return True
    state = TransportState.objects.filter(alias=transport.alias, paused_until=transport.probing)
    return state.update(paused_until=timezone.now() + options().claim_lease) == 1


def release_probe(transport: Transport) -> None:
    """Release a probe that was not used, so that another message can probe at once."""
    if transport.probing is not None:
        TransportState.objects.filter(alias=transport.alias, paused_until__gt=timezone.now()).update(
            paused_until=transport.probing
        )


def report(transport: Transport, outcome: Outcome) -> None:
    """Pause a transport that went down; end the pause of one that answered its probe."""
    if isinstance(outcome, TransportDown):
        _pause(transport, outcome)
    elif transport.probing is not None:
        TransportState.objects.filter(alias=transport.alias).update(failures=0, paused_until=None, reason="")
        log.info("transport works again", transport=transport.alias)


def _pause(transport: Transport, outcome: TransportDown) -> None:
    state, _ = TransportState.objects.get_or_create(alias=transport.alias)
    failures = state.failures + 1 if transport.probing else 1
    policy = retry.Policy(options().max_attempts, options().backoff_base, min(options().backoff_max, LONGEST_PAUSE))
    pause = retry.backoff(failures, policy)
    reason = f"{outcome.code} {outcome.text}".strip()
    # If many messages fail at the same time, only the first one pauses the transport. A failed probe always does.
    row = TransportState.objects.filter(alias=transport.alias)
    row = row if transport.probing else row.filter(paused_until=None)
    if row.update(failures=failures, paused_until=timezone.now() + pause, reason=reason):
        line = log.error if outcome.misconfigured else log.warning
        line("transport paused", transport=transport.alias, seconds=round(pause.total_seconds(), 1), reason=reason)
