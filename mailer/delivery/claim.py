"""Claim a message: of all workers that have it in hand, one may transmit it."""

from datetime import timedelta
from typing import Any, Literal

import structlog

from mailer import routes
from mailer.addresses import as_transmitted
from mailer.database import hot_cursor
from mailer.delivery import domains
from mailer.delivery.circuit import Transport
from mailer.delivery.heartbeat import heartbeat
from mailer.delivery.steps import Postponed, Ready, Unsent
from mailer.models import SILENCE, SOURCES, DeliveryAttempt, Message, Outcome, State, Suppression, Taken, Worker
from mailer.recipients import suppression
from mailer.text import replace_unstorable

log = structlog.get_logger(__name__)

LEASE = timedelta(hours=2)
"""How long a living worker may take for one message: longer than any conversation that the transports allow."""
SUBJECT_LENGTH = 998
"""The longest subject that the row keeps, in characters: the limit of a header line (RFC 5322, 2.1.1)."""

# One statement, because a claim needs its attempt row and a second round trip costs time. Its WHERE is the guard: of two
# workers, PostgreSQL makes one wait for the other and then see the changed row.
CLAIM = f"""
WITH claimed AS (
    UPDATE {Message._meta.db_table}
    SET state = %(sending)s, attempts = attempts + 1, worker = %(me)s, reservations = 0, troubled_since = NULL,
        claimed_until = statement_timestamp() + %(lease)s, recipient = %(recipient)s, subject = %(subject)s
    WHERE id = %(id)s AND attempts = %(attempts)s AND state = ANY(%(sources)s) AND worker = %(me)s
      AND coalesce(expires_at > statement_timestamp(), true)
      AND EXISTS (
          SELECT 1 FROM {Worker._meta.db_table}
          WHERE id = %(me)s AND seen_at > statement_timestamp() - %(silence)s
      )
      AND NOT EXISTS (
          SELECT 1 FROM {Suppression._meta.db_table}
          WHERE address = ANY(%(addresses)s) AND stream = ANY(%(streams)s)
      )
    RETURNING id, attempts
)
INSERT INTO {DeliveryAttempt._meta.db_table}
    (message_id, number, transport, worker, taken, started_at, outcome, phase, code, response)
SELECT id, attempts, %(transport)s, %(host)s, %(taken)s, statement_timestamp(), %(pending)s, '', '', '' FROM claimed
"""  # noqa: S608 - the names are our own models'


def claim(message: Message, ready: Ready, transport: Transport, taken: Taken) -> Ready | Postponed | Unsent | None:
    """Claim the message.

    Unsent if the recipient was suppressed after the mail was composed, Postponed if that was one of several or if its domain
    is full, None if another worker has the message, or if its deadline has passed.
    """
    place = domains.place_for(transport.alias, ready.recipient)
    with domains.turn_at(place) as has_turn:
        is_claimed = has_turn and claim_row(message, ready, transport.alias, taken)
    if is_claimed:
        return ready
    if place and not has_turn:
        return place.full
    reason = suppression.reason_for(ready.recipient, ready.stream)
    if reason is None:
        return None
    if len(ready.mail.recipients()) > 1:
        return Postponed("a recipient was suppressed")  # the next reservation excludes it and sends to the others
    return Unsent(State.SUPPRESSED, f"the address is suppressed: {reason}")


def claim_row(message: Message, ready: Ready, alias: str = routes.PRIMARY, taken: Taken | Literal[""] = "") -> bool:
    """Claim the message for this worker, and open a delivery attempt.

    False if this worker has not (or no longer) reserved it or was silent, if its deadline has passed, or if its recipient is
    suppressed (for all mail or for the stream) and not excluded already.
    """
    is_excluded = as_transmitted(ready.recipient) in ready.exclude
    values: dict[str, Any] = {
        "sending": State.SENDING,
        "me": heartbeat.worker,
        "silence": SILENCE,
        "lease": LEASE,
        "recipient": ready.recipient,
        "subject": replace_unstorable(ready.subject)[:SUBJECT_LENGTH],
        "id": message.pk,
        "attempts": message.attempts,
        "sources": list(SOURCES[State.SENDING]),
        "addresses": [] if is_excluded else suppression.stored_forms(ready.recipient),
        "streams": suppression.streams_that_stop(ready.stream),
        "transport": alias,
        "host": heartbeat.host,
        "taken": taken,
        "pending": Outcome.PENDING,
    }
    with hot_cursor() as cursor:
        cursor.execute(CLAIM, values)
        if cursor.rowcount != 1:
            return False
    message.attempts += 1
    message.recipient = ready.recipient
    log.debug("attempt started", **message.log_fields(), attempt=message.attempts)
    return True
