"""Circuit breaker for transports: pause a transport that cannot be used, then probe it.

A circuit belongs to a transport as one host sees it, because a host may have lost its own network. It opens for all hosts
when a second one agrees, or when the server itself said that it takes no mail. Pauses grow from probe to probe. M. Nygard,
"Release It!", 2007.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

import structlog
from django.core.mail import mailers
from django.db.models import BooleanField, Case, Q, Value, When
from django.db.models.functions import Coalesce, Now

from mailer import routes
from mailer.conf import options
from mailer.delivery import quota, retry, shares
from mailer.delivery.attribution import Attribution, Fault
from mailer.delivery.heartbeat import heartbeat
from mailer.models import OPEN_END, TOOK, Circuit, DeliveryAttempt, Worker
from mailer.outcomes import PermanentRefusal, Refusal, TransportDown, answer_of

log = structlog.get_logger(__name__)

ALL = ""
"""The host of a circuit that is open for all hosts."""
RECONNECT = timedelta(seconds=8)
"""The longest pause between two attempts to connect, which concern no message."""
LONGEST = timedelta(minutes=1)
"""The longest pause between two probes that need a message."""
ACCOUNT = retry.Policy(timedelta(minutes=1), timedelta(days=1))
"""The pauses of an account that is refused: each log-in that fails may lock it for longer."""
PROBE = timedelta(minutes=1)
"""The time until another message probes, if the worker that probes dies."""
LATELY = timedelta(minutes=1)
"""A transport that accepted a message this recently works. A host whose pause ended longer ago did not try again."""


class NoSuchTransport(LookupError):
    """The message names a transport that is not configured here; newer code may know it."""


@dataclass(frozen=True, slots=True)
class Transport:
    """The transport that a message may use now, and the ends of the pauses that it is to probe."""

    alias: str
    probes: tuple[Circuit, ...] = ()


Paused = Mapping[str, list[Circuit]]
"""alias → its circuits that are open for this host. Each has `is_over`: whether its pause has ended."""


def paused() -> Paused:
    """Return the transports that this host must not use now, those with a used up quota among them."""
    is_over = Case(When(paused_until__lte=Now(), then=Value(True)), default=Value(False), output_field=BooleanField())
    mine = Circuit.objects.exclude(paused_until=None).filter(host__in=[ALL, heartbeat.host]).annotate(is_over=is_over)
    by_alias: dict[str, list[Circuit]] = {}
    for circuit in [*mine, *chain.from_iterable(quota.used_up(mailers.settings).values())]:
        by_alias.setdefault(circuit.transport, []).append(circuit)
    return by_alias


def find_transport(route: str, paused: Paused, message_id: int = 0) -> Transport | None:
    """Return the first transport of the route that is not paused, or that is to be probed; or None. Raises NoSuchTransport.

    Which one is the first may depend on the message.
    """
    aliases = shares.in_order(route, message_id)
    if not aliases:
        raise NoSuchTransport(f"MAILERS has no {route or routes.PRIMARY!r} in this release")
    for alias in aliases:
        circuits = paused.get(alias, [])
        if all(circuit.is_over for circuit in circuits):  # type: ignore[attr-defined]  # annotated by paused()
            return Transport(alias, tuple(circuit for circuit in circuits if not circuit.by_person))
    return None


def open_routes() -> list[str]:
    """Return the routes that have a transport which may be used now."""
    now = paused()
    return [route for route in routes.names() if routes.transports(route) and find_transport(route, now)]


def describe(paused: Paused) -> str:
    """Say which transports are paused for this host, and when they are probed next; empty if none is."""
    return "; ".join(f"{alias} {_pause_in_words(circuits)}" for alias, circuits in sorted(paused.items()))


def _pause_in_words(circuits: Iterable[Circuit]) -> str:
    circuits = list(circuits)
    if any(each.by_person for each in circuits):
        return "paused by a person"
    if quotas := [each for each in circuits if each.by_quota]:
        return f"paused until {quotas[0].paused_until:%H:%M:%S} UTC, {quotas[0].reason}"
    return f"paused, next probe {max(each.paused_until for each in circuits if each.paused_until):%H:%M:%S} UTC"


@contextmanager
def probing(transport: Transport) -> Iterator[bool]:
    """Claim the probe of a transport. Yield False if another worker has it; True if no probe is needed.

    A probe that neither `close` nor a pause has ended by then is free for another worker.
    """
    begun: list[Circuit] = []
    for circuit in transport.probes:
        if not Circuit.objects.filter(pk=circuit.pk, paused_until=circuit.paused_until).update(
            paused_until=Now() + PROBE
        ):
            break
        begun.append(circuit)
    try:
        yield len(begun) == len(transport.probes)
    finally:
        for circuit in begun:
            unused = Circuit.objects.filter(pk=circuit.pk, failures=circuit.failures, paused_until__gt=Now())
            unused.update(paused_until=circuit.paused_until)


def close(transport: Transport, *, host: str | None = None) -> None:
    """End the pauses of a transport that answered its probe; of this host only if it is given."""
    answered = [circuit.pk for circuit in transport.probes if host in (None, circuit.host)]
    if not answered:
        return
    Circuit.objects.filter(pk__in=answered).update(
        failures=0, paused_since=None, paused_until=None, needs_person=False, reason=""
    )
    log.info("transport works again", transport=transport.alias)


def pause_here(transport: Transport, outcome: TransportDown) -> None:
    """Pause a transport that this host cannot use; for all hosts, if a second one cannot use it and no one else can."""
    policy = _up_to(LONGEST if outcome.misconfigured else RECONNECT)
    _pause(transport, heartbeat.host, outcome, policy, needs_person=outcome.misconfigured)
    others = Circuit.objects.filter(transport=transport.alias).exclude(host__in=[ALL, heartbeat.host])
    if others.filter(paused_until__gt=Now() - LATELY).exists() and not works(transport.alias):
        _pause(transport, ALL, outcome, policy, needs_person=outcome.misconfigured)


def pause_everywhere(transport: Transport, outcome: Refusal, fault: Attribution) -> None:
    """Pause a transport for all hosts: its server said that it takes no mail, or not from this account."""
    is_account = fault.fault is Fault.ACCOUNT
    policy = ACCOUNT if is_account else _up_to(LONGEST)
    needs_person = is_account or (isinstance(outcome, PermanentRefusal) and fault.fault is not Fault.QUOTA)
    _pause(transport, ALL, outcome, policy, needs_person=needs_person, at_least=fault.pause or timedelta(0))


def pause_by_person(alias: str, reason: str, duration: timedelta | None = None) -> None:
    """Pause a transport for all hosts until `resume` is called, or for the duration. Until then no worker probes it."""
    end = OPEN_END if duration is None else Now() + duration
    pause = {"paused_since": Now(), "paused_until": end, "reason": reason}
    Circuit.objects.update_or_create(transport=alias, host=ALL, by_person=True, defaults=pause)
    log.warning("transport paused by a person", transport=alias, duration=str(duration or "open"), reason=reason)


def resume(alias: str) -> bool:
    """End the pause of a person, and probe now if the transport is paused for another reason. False if it was not paused."""
    ended, _ = Circuit.objects.filter(transport=alias, by_person=True).delete()
    probed = Circuit.objects.filter(transport=alias, by_person=False).exclude(paused_until=None)
    is_probed = probed.update(paused_until=Now()) > 0
    log.info("transport resumed by a person", transport=alias)
    return bool(ended) or is_probed


def forget_old() -> None:
    """Delete pauses of persons that are over, and the circuits of hosts that have no worker any more.

    A container has a new name each time that it starts.
    """
    Circuit.objects.filter(by_person=True, paused_until__lte=Now()).delete()
    Circuit.objects.exclude(host=ALL).exclude(host__in=Worker.objects.values("host")).delete()


def works(alias: str) -> bool:
    """Return whether the transport accepted a message lately."""
    accepted = DeliveryAttempt.objects.newest().filter(
        transport=alias, outcome__in=TOOK, finished_at__gt=Now() - LATELY
    )
    return accepted.exists()


def _up_to(longest: timedelta) -> retry.Policy:
    return retry.Policy(options().backoff_base, min(options().backoff_max, longest))


def _pause(
    transport: Transport,
    host: str,
    outcome: Refusal,
    policy: retry.Policy,
    *,
    needs_person: bool,
    at_least: timedelta = timedelta(0),
) -> None:
    circuit, _ = Circuit.objects.get_or_create(transport=transport.alias, host=host, by_person=False)
    probed = next((each for each in transport.probes if each.host == host), None)
    failures = probed.failures + 1 if probed else 1  # not from the row: this may be written twice
    pause = max(retry.backoff(failures, policy), at_least)
    reason = answer_of(outcome)
    # If many messages fail at the same time, only the first one pauses the transport. A failed probe always does.
    row = Circuit.objects.filter(pk=circuit.pk)
    row = row if probed else row.filter(Q(paused_until=None))
    if row.update(
        failures=failures,
        paused_since=Coalesce("paused_since", Now()),
        paused_until=Now() + pause,
        needs_person=needs_person,
        reason=reason,
    ):
        line = log.error if needs_person else log.warning
        line("transport paused", transport=transport.alias, seconds=round(pause.total_seconds(), 1), reason=reason)
