"""Every change of messages and attempts, written down by triggers of the test database, and what must never be in it.

Totals hide faults: one message with ten copies among a hundred looks like ten messages with one copy each. The history belongs
to the tests and not to the product, whose attempts already tell an operator what happened: it costs a row for each change.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from mailer.models import SILENCE, SOURCES, WAITING, Outcome, State

TOLERANCE = timedelta(seconds=1)
"""`now()` is the beginning of a transaction, and a trigger runs in the middle of it."""
OWN_CLOCK = timedelta(seconds=30)
"""A stored time that is further away from the database's came from another clock."""

# to_jsonb makes the functions independent of columns that not every release has. `alive` is about the worker that had the
# message before the change, which may be another one's.
INSTALL = f"""
CREATE TABLE test_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id bigint NOT NULL,
    what text NOT NULL,
    old text,
    new text NOT NULL,
    number int NOT NULL,
    before int,
    worker text NOT NULL,
    alive boolean,
    due_at timestamptz,
    expires_at timestamptz,
    stored_at timestamptz,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION test_history_of_message() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    after jsonb := to_jsonb(NEW);
    prior jsonb := CASE TG_OP WHEN 'UPDATE' THEN to_jsonb(OLD) END;
    heard boolean;
BEGIN
    IF prior->>'worker' IS NOT NULL AND to_regclass('mailer_worker') IS NOT NULL THEN
        EXECUTE 'SELECT seen_at > clock_timestamp() - $1 FROM mailer_worker WHERE id::text = $2'
        INTO heard USING interval '{SILENCE.total_seconds()} s', prior->>'worker';
    END IF;
    INSERT INTO test_history (message_id, what, old, new, number, before, worker, alive, due_at, expires_at)
    VALUES (NEW.id, 'message', prior->>'state', NEW.state, NEW.attempts, (prior->>'attempts')::int,
        coalesce(after->>'worker', ''), heard, NEW.due_at, NEW.expires_at);
    RETURN NULL;
END $$;
CREATE FUNCTION test_history_of_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    after jsonb := to_jsonb(NEW);
    prior jsonb := CASE TG_OP WHEN 'UPDATE' THEN to_jsonb(OLD) END;
BEGIN
    INSERT INTO test_history (message_id, what, old, new, number, worker, stored_at)
    VALUES (NEW.message_id, 'attempt', prior->>'outcome', NEW.outcome, NEW.number, coalesce(after->>'worker', ''),
        CASE WHEN TG_OP = 'INSERT' THEN NEW.started_at
             WHEN NEW.finished_at IS DISTINCT FROM OLD.finished_at THEN NEW.finished_at END);
    RETURN NULL;
END $$;
CREATE TRIGGER test_history AFTER INSERT OR UPDATE ON mailer_message
    FOR EACH ROW EXECUTE FUNCTION test_history_of_message();
CREATE TRIGGER test_history AFTER INSERT OR UPDATE ON mailer_deliveryattempt
    FOR EACH ROW EXECUTE FUNCTION test_history_of_attempt();
"""  # noqa: S608 - a number of ours

REMOVE = """
DROP FUNCTION IF EXISTS test_history_of_message, test_history_of_attempt CASCADE;
DROP TABLE IF EXISTS test_history;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One INSERT or UPDATE of a message, or of one of its attempts."""

    message_id: int
    what: Literal["message", "attempt"]
    old: str | None = None
    """The state or the outcome before; None for an INSERT."""
    new: str
    number: int
    """The number of the newest attempt of a message, or of this attempt."""
    before: int | None = None
    """That number of a message before the change."""
    worker: str = ""
    alive: bool | None = None
    """Whether the worker that had the message until then had beaten lately; None if there was none."""
    due_at: datetime | None = None
    expires_at: datetime | None = None
    stored_at: datetime | None = None
    """When an attempt began or ended, as its row says."""
    at: datetime
    """By the database's clock."""


class Cursor(Protocol):
    """What cursors of Django and of psycopg have in common."""

    def execute(self, query: Any, /) -> Any: ...

    def fetchall(self) -> list[tuple[Any, ...]]: ...


def read(cursor: Cursor) -> list[Change]:
    """Return the history so far, in the order in which rows changed."""
    names = [field.name for field in fields(Change)]
    cursor.execute(f"SELECT {', '.join(names)} FROM test_history ORDER BY id")  # noqa: S608 - our own names
    return [Change(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def violations(
    history: Sequence[Change], *, within: timedelta | None = None, until: datetime | None = None
) -> list[str]:
    """Return a sentence for each change that must not happen.

    With `within`, each message must have ended so long after it was first due; `until` is the time of reading.
    """
    messages: dict[int, list[Change]] = defaultdict(list)
    for change in history:
        messages[change.message_id].append(change)
    found: list[str] = []
    for number, changes in messages.items():
        of_message = [change for change in changes if change.what == "message"]
        of_attempts = [change for change in changes if change.what == "attempt"]
        sentences = [
            *_transitions(of_message),
            *_claims(of_message),
            *_times(of_message),
            *_transmissions(of_attempts),
            *_outcomes(of_attempts),
            *_given_away(changes),
            *_clocks(of_attempts),
            *(_ends(of_message, within, until) if within and until else ()),
        ]
        found += [f"message {number}: {sentence}" for sentence in sentences]
    return found


def _transitions(changes: Iterable[Change]) -> Iterator[str]:
    for change in changes:
        if change.old not in (None, change.new) and change.old not in SOURCES[State(change.new)]:
            yield f"went from {change.old} to {change.new}"


def _claims(changes: Iterable[Change]) -> Iterator[str]:
    """Only a claim counts an attempt, each claim counts one, and there is one claim at a time."""
    for change in changes:
        if change.before is None:
            continue
        counted, claimed = change.number - change.before, change.new == State.SENDING
        if claimed and change.old == State.SENDING and counted:
            yield f"claimed for attempt {change.number} while attempt {change.before} was under way"
        elif counted != (claimed and change.old != State.SENDING):
            yield f"its attempts went from {change.before} to {change.number} as it became {change.new}"


def _times(changes: Iterable[Change]) -> Iterator[str]:
    """Due times and deadlines are compared with the database's clock."""
    for change in changes:
        if change.old not in WAITING:
            continue
        deadline = change.expires_at
        if change.new == State.SENDING and change.due_at and change.at < change.due_at - TOLERANCE:
            yield f"claimed {_seconds(change.due_at - change.at)} before it was due"
        if change.new == State.SENDING and deadline and change.at > deadline + TOLERANCE:
            yield f"claimed {_seconds(change.at - deadline)} after its deadline"
        if change.new == State.EXPIRED and deadline and change.at < deadline - TOLERANCE:
            yield f"expired {_seconds(deadline - change.at)} before its deadline"


def _transmissions(changes: Iterable[Change]) -> Iterator[str]:
    """An attempt needs an end of the one before it, which must not be `accepted`."""
    outcomes: dict[int, str] = {}
    for change in changes:
        if change.old is None:
            for number, outcome in outcomes.items():
                if outcome == Outcome.PENDING:
                    yield f"attempt {change.number} began while attempt {number} was under way"
                elif outcome == Outcome.ACCEPTED:
                    yield f"attempt {change.number} began after attempt {number} was accepted"
        outcomes[change.number] = change.new


def _outcomes(changes: Iterable[Change]) -> Iterator[str]:
    """An answer stays; only the assumption that there is none may be replaced."""
    for change in changes:
        if change.old in (None, change.new):
            continue
        if change.old not in (Outcome.PENDING, Outcome.UNCERTAIN) or change.new == Outcome.PENDING:
            yield f"attempt {change.number} was {change.old}, then {change.new}"


def _given_away(changes: Iterable[Change]) -> Iterator[str]:
    """A claim ends while its worker is alive, and afterwards that worker reports an answer: somebody else had ended it."""
    ended: set[int] = set()
    for change in changes:
        if change.what == "message" and (change.old, change.alive) == (State.SENDING, True):
            ended.add(change.number)
        elif change.number in ended and change.old == Outcome.UNCERTAIN != change.new:
            yield f"attempt {change.number} was given away while its worker was alive"


def _clocks(changes: Iterable[Change]) -> Iterator[str]:
    for change in changes:
        if change.stored_at and abs(change.stored_at - change.at) > OWN_CLOCK:
            yield f"attempt {change.number} has the time of a clock that is {_seconds(change.stored_at - change.at)} ahead"


def _ends(changes: Sequence[Change], within: timedelta, until: datetime) -> Iterator[str]:
    if not changes:
        return
    due = changes[0].due_at or changes[0].at
    entered = next((each for each in reversed(changes) if each.old != each.new), changes[0])
    is_open = entered.new in (*WAITING, State.SENDING)
    took = (until if is_open else entered.at) - due
    if took > within:
        yield f"{'is still' if is_open else 'became'} {entered.new} {_seconds(took)} after it was due"


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.1f} s"
