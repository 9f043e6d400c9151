"""The path of a message through a worker: reserve, admit, prepare, connect, claim, transmit, settle.

Everything slow comes before the claim, and no transaction is open while the network is used. Admission may wait for the rate
limit, so `is_wanted` is called after it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from mailer import email, signals, tracing
from mailer.conf import options
from mailer.database import is_away
from mailer.delivery import circuit, domains, limits, quota, rate, references, retry, streams
from mailer.delivery.attribution import Fault
from mailer.delivery.circuit import Transport
from mailer.delivery.claim import LEASE, claim
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.judge import judge_connection
from mailer.delivery.prepare import BUILDING, prepare, prepare_again
from mailer.delivery.reserve import QUARANTINE, Reserved, has_due, release, reserve, reserve_next
from mailer.delivery.settle import settle_persistently, settle_unsent
from mailer.delivery.steps import EXPIRED, Postponed, Ready, Trouble, Unsent
from mailer.models import Message, State, Taken
from mailer.outcomes import Accepted, Busy, Stop, TransportDown
from mailer.routes import transports
from mailer.text import mask
from mailer.transports.client import LONGEST_ANSWER_TO_DOT
from mailer.transports.connections import connect
from mailer.transports.transmit import transmit

log = structlog.get_logger(__name__)

MOST = 32
"""Messages that a worker reserves at once."""
TURN = 0.1
"""Seconds until a worker puts the rest of them back, and looks for more urgent ones."""
LATE = timedelta(seconds=0.5)
"""From then on a worker is behind with its tasks."""
BUDGET = 5.0
"""Seconds that one task delivers due messages, before it lets other tasks of the worker run."""
PAUSE = 1.0
"""Seconds until a worker tries a route again whose transport took no more."""
LATEST_DOT = (LEASE - 2 * LONGEST_ANSWER_TO_DOT).total_seconds()
"""Seconds after the claim, from which the server's last answer might come after the end of the lease."""
RELEASE = timedelta(minutes=5)
"""The longest pause of a message that waits for a release that can prepare it."""


def deliver(message_id: int, *, on_late: Callable[[str], object] = lambda _: None) -> str:
    """Deliver one message if it is due and free, and record the result in its row. Return a sentence about it.

    Calls `on_late` with the queue if the message was late: more is probably due, and a batch costs less than a task for each.
    Raises the database's errors.
    """
    reserved = reserve(message_id)
    if reserved is None:
        return "nothing to do: it is not due, or another worker has it"
    results = _deliver_batch([reserved])
    if reserved.late > LATE:
        on_late(reserved.message.queue)
    return results[0].said if results else "put back: this worker stood still"


def deliver_due(
    queues: Sequence[str],
    *,
    seconds: float = BUDGET,
    longest_wait: timedelta | None = None,
    taken: Taken = Taken.KICK,
    on_more: Callable[[], object] = lambda: None,
    must_stop: Callable[[], bool] = lambda: False,
    on_result: Callable[[str], object] = lambda _: None,
) -> int:
    """Deliver what is due, the first queue first, for about so many seconds. Return the number of messages tried.

    Calls `on_more` when more is due than the first message, and if work is left at the end, and `on_result` with the sentence
    about each message. Raises the database's errors.
    """
    ends = time.monotonic() + seconds
    tried, size = 0, 1  # it grows while a batch is done in its turn: a server may take a second for each message
    routes = circuit.open_routes()
    waits_until: dict[str, float] = {}
    are_put_off = False
    while time.monotonic() < ends and not must_stop():
        ready = [route for route in routes if waits_until.get(route, 0.0) <= time.monotonic()]
        batch = reserve_next(queues, ready, size, taken)
        if not batch:
            if ready == routes and not are_put_off:
                return tried
            are_put_off = False
            time.sleep(min(PAUSE, max(ends - time.monotonic(), 0.0)))
            continue
        if not tried and has_due(queues, routes):
            on_more()
        results = _deliver_batch(batch, must_stop, longest_wait)
        for result in results:
            on_result(result.said)
        tried += len(results)
        are_put_off |= any(result.is_put_off for result in results)
        size = min(MOST, 2 * len(results)) if len(results) == len(batch) else max(1, len(results))
        if results and results[-1].must_wait:
            waits_until[batch[0].message.transport] = time.monotonic() + PAUSE  # mail of other routes goes on
        if batch[0].is_any_limited or waits_until:
            routes = circuit.open_routes()
    if has_due(queues, routes):
        on_more()
    return tried


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a message. `said` has no address and no text of a mail."""

    said: str
    must_wait: bool = False
    """Whether its transport takes no more messages at this moment."""
    is_put_off: bool = False
    """Whether it alone waits for a moment."""
    was_accepted: bool = True
    """False if the server's answer may have paused or slowed down the transport, which a reservation looks at."""

    @property
    def ends_batch(self) -> bool:
        return self.must_wait or not self.was_accepted


SET_ASIDE = Result("waits: its stream is paused")


def _deliver_batch(
    batch: Sequence[Reserved], must_stop: Callable[[], bool] = lambda: False, longest_wait: timedelta | None = None
) -> Sequence[Result]:
    """Deliver messages of one queue and route, for about TURN seconds, and put the others back. Return what became of them."""
    ends = time.monotonic() + TURN
    results: list[Result] = []
    with heartbeat.holding(*(reserved.message.pk for reserved in batch)):
        aside = streams.set_aside(batch)
        rows = references.load(reserved.message for reserved in batch if reserved.message.pk not in aside)
        for reserved in batch:
            if results and (results[-1].ends_batch or time.monotonic() > ends or must_stop()):
                break
            result = SET_ASIDE if reserved.message.pk in aside else _deliver(reserved, rows, longest_wait)
            if result is None:
                break
            results.append(result)
            if signals.has_receivers(reserved.message.kind):
                rows.clear()  # a receiver may have changed what the next ones refer to
        mine = heartbeat.in_hand()
        if rest := [reserved.message for reserved in batch[len(results) :] if reserved.message.pk in mine]:
            release(*rest)
    return results


def _deliver(reserved: Reserved, rows: email.Rows, longest_wait: timedelta | None) -> Result | None:
    """Deliver a message in hand. None if it waited for so long, behind another one, that it was put back meanwhile."""
    message = reserved.message
    with (
        heartbeat.turn_of(message.pk) as is_mine,
        tracing.span("deliver", message.traceparent, **message.log_fields()) as note,
    ):
        if not is_mine:
            return None
        result = _deliver_in_hand(reserved, rows, longest_wait or rate.longest_wait(message.queue))
        note(result.said)
        return result


def _deliver_in_hand(reserved: Reserved, rows: email.Rows, longest_wait: timedelta) -> Result:
    message = reserved.message
    match _attempt(reserved, rows, longest_wait):
        case Postponed(reason, pause):
            release(message, pause=pause)
            return Result(f"waits: {reason}", must_wait=pause is None, is_put_off=pause is not None)
        case Unsent() as unsent:
            may_change = unsent.state in (State.CANCELLED, State.SUPPRESSED)
            if settle_unsent(message, unsent, partial(prepare_again, message) if may_change else None):
                return Result(str(unsent.state))
            release(message)
            return Result("waits: its key is in use", must_wait=True)
        case Trouble() as trouble:
            return _postpone(reserved, trouble)
        case None:
            heartbeat.has_dropped = True  # a worker of another release may leave it with this worker's name
            # If it still waits, it would be reserved again at once. It may also have been cancelled since it was reserved.
            return Result("another worker has it, or it was cancelled", must_wait=release(message) > 0)
        case Result() as result:
            return result


def _attempt(
    reserved: Reserved, rows: email.Rows, longest_wait: timedelta
) -> Postponed | Unsent | Trouble | Result | None:
    """Run the steps. An error before the claim is a trouble, and one that has lasted for its patience is a failure."""
    message, attempts = reserved.message, reserved.message.attempts
    try:
        result = _run_steps(reserved, rows, longest_wait)
    except (email.UnknownKind, circuit.NoSuchTransport) as error:
        return Trouble(str(error), patience=None)
    except Exception as error:
        if is_away(error) or message.attempts > attempts:  # it was claimed, so that it may have been sent
            raise
        log.exception("could not be delivered", **message.log_fields())
        result = Trouble(mask(f"could not be delivered: {type(error).__name__}: {error}"), BUILDING)
    if isinstance(result, Trouble) and result.patience is not None and reserved.trouble >= result.patience:
        return Unsent(State.FAILED, result.reason)
    return result


def _run_steps(
    reserved: Reserved, rows: email.Rows, longest_wait: timedelta
) -> Postponed | Unsent | Trouble | Result | None:
    """Run the steps until one of them stops the message. None if another worker has it."""
    message = reserved.message
    if message.reservations > QUARANTINE:
        return Unsent(State.HELD, f"quarantined: {QUARANTINE} workers stopped while they prepared it")
    if reserved.is_expired():
        return EXPIRED
    began, attempts = time.monotonic(), message.attempts
    transport = admit(reserved, longest_wait)
    if isinstance(transport, Postponed):
        return transport
    try:
        return _use(transport, reserved, rows, began)
    finally:
        if message.attempts == attempts:
            quota.give_back(transport.alias)


def _use(
    transport: Transport, reserved: Reserved, rows: email.Rows, began: float
) -> Postponed | Unsent | Trouble | Result | None:
    """Prepare a message that was admitted, and send it."""
    message = reserved.message
    if time.monotonic() - began > TURN:
        rows.clear()  # it waited for the rate limit, and what it refers to may have changed since the batch began
    ready = EXPIRED if reserved.is_expired() else prepare(message, rows)  # it may have waited for the rate limit
    if not isinstance(ready, Ready):
        return ready
    with circuit.probing(transport) as may_use:
        return _send(reserved, ready, transport) if may_use else Postponed("another worker probes the transport")


def _send(reserved: Reserved, ready: Ready, transport: Transport) -> Postponed | Unsent | Result | None:
    """Connect, claim, transmit, settle. What fails before the claim is no message's fault."""
    message = reserved.message
    connection = connect(transport.alias, is_probe=bool(transport.probes))
    if isinstance(connection, TransportDown | Busy):
        return _not_connected(transport, message, connection)
    asked = time.monotonic()
    claimed: Ready | Postponed | Unsent | None = None
    try:
        circuit.close(transport, host=heartbeat.host)  # the connection was this host's probe
        claimed = claim(message, ready, transport, reserved.taken)
    finally:
        if not isinstance(claimed, Ready):
            connection.release()
    if not isinstance(claimed, Ready):
        return claimed
    began = time.monotonic()
    guard = partial(_check_still_mine, reserved, asked)
    outcome = transmit(connection, ready.mail, number=message.pk, exclude=ready.exclude, guard=guard)
    said = settle_persistently(message, transport, outcome, ms=round((time.monotonic() - began) * 1000))
    return Result(said, was_accepted=isinstance(outcome, Accepted))


def admit(reserved: Reserved, longest_wait: timedelta) -> Transport | Postponed:
    """Return the first working transport of the message's route, after waiting for its rate, and count it in its quota.

    Postponed if every transport of the route is paused, if the recipient's domain is full, or if the wait would be longer than
    `longest_wait`. Raises NoSuchTransport.
    """
    message, is_limited = reserved.message, reserved.is_any_limited
    paused = circuit.paused() if is_limited else quota.used_up(transports(message.transport))
    transport = circuit.find_transport(message.transport, paused, message.pk)
    if transport is None:
        return Postponed(circuit.describe(paused))
    place = domains.place_for(transport.alias, message.recipient)
    if place and place.is_full():  # before a slot is booked and the mail is built; the claim asks again
        return place.full
    is_counted = is_limited or limits.of(transport.alias).is_counted
    wait = rate.book_slot(transport.alias, longest_wait) if is_counted else 0.0
    if wait is None:
        return Postponed("rate limit")
    if wait:
        time.sleep(wait)
    return transport


def _postpone(reserved: Reserved, trouble: Trouble) -> Result:
    """Put a message back that could not be prepared, with a pause that grows with the trouble."""
    longest = options().backoff_max if trouble.patience else min(options().backoff_max, RELEASE)
    pause = retry.pause_since(reserved.trouble, retry.Policy(options().backoff_base, longest))
    seconds = round(pause.total_seconds())
    log.warning("not prepared; tried again", **reserved.message.log_fields(), reason=trouble.reason, seconds=seconds)
    release(reserved.message, reason=trouble.reason, pause=pause)
    return Result(f"could not be prepared; tried again in {seconds} s")


def _not_connected(transport: Transport, message: Message, answer: TransportDown | Busy) -> Postponed:
    """Postpone a message because there is no connection, which is no message's fault."""
    if isinstance(answer, Busy) or judge_connection(message, transport, answer).fault is Fault.CONNECTIONS:
        return Postponed("the server takes no more connections at this moment")
    return Postponed("the transport cannot be used")


def _check_still_mine(reserved: Reserved, claimed_at: float) -> None:
    """Raise Stop if the message must not be sent any more. Called before MAIL and before the final dot.

    `claimed_at` is on the monotonic clock.
    """
    if reserved.is_expired():
        raise Stop("its deadline passed before it was sent")
    if time.monotonic() - claimed_at > LATEST_DOT:
        raise Stop("it took so long that the claim ends before the server need answer")
    if not heartbeat.has_been_good_since(claimed_at):
        raise Stop("the heartbeat of this worker was late, so another worker may have the message")
