"""Claim a message: of all workers with a task for it, one may transmit it."""

import socket
from datetime import timedelta
from typing import Any

import structlog
from django.db import connection
from django.utils import timezone

from mailer import routes
from mailer.addresses import as_transmitted
from mailer.conf import options
from mailer.delivery import circuit
from mailer.delivery.steps import Postponed, Ready, Transport, Unsent
from mailer.models import SOURCES, DeliveryAttempt, Message, Outcome, State, Suppression
from mailer.recipients import suppression
from mailer.text import replace_unstorable

log = structlog.get_logger(__name__)

EARLY = timedelta(seconds=1)
"""A worker's clock may be a little ahead of the clock that wrote the due time."""
SUBJECT_LENGTH = 998
"""The longest subject that the row keeps, in characters: the limit of a header line (RFC 5322, 2.1.1)."""

# One statement, because a claim needs its attempt row and a second round trip costs time. Its WHERE is the guard: of two
# workers, PostgreSQL makes one wait for the other and then see the changed row. Leases use the database's clock, which all
# workers share.
CLAIM = f"""
WITH claimed AS (
    UPDATE {Message._meta.db_table}
    SET state = %(sending)s, attempts = attempts + 1, handovers = 0, claimed_until = now() + %(lease)s,
        recipient = %(recipient)s, subject = %(subject)s
    WHERE id = %(id)s AND attempts = %(attempts)s AND state = ANY(%(sources)s) AND due_at <= %(due_by)s
      AND NOT EXISTS (
          SELECT 1 FROM {Suppression._meta.db_table}
          WHERE address = ANY(%(addresses)s) AND stream IN ('', %(stream)s)
      )
    RETURNING id, attempts
)
INSERT INTO {DeliveryAttempt._meta.db_table}
    (message_id, number, transport, worker, started_at, outcome, code, response)
SELECT id, attempts, %(transport)s, %(worker)s, %(started_at)s, %(pending)s, '', '' FROM claimed
"""  # noqa: S608 - the names are our own models'


def claim(message: Message, ready: Ready, transport: Transport) -> Ready | Postponed | Unsent | None:
    """Claim the message, and the probe of its transport if it is paused.

    Postponed if another worker probes the transport, Unsent if the recipient was suppressed after the mail was composed, None
    if another worker has the message.
    """
    if not circuit.begin_probe(transport):
        return Postponed()
    if claim_row(message, ready, transport.alias):
        return ready
    circuit.release_probe(transport)
    reason = suppression.reason_for(ready.recipient, ready.stream)
    if reason is None:
        return None
    if len(ready.mail.recipients()) > 1:
        return Postponed()  # the next worker excludes this recipient and sends to the others
    return Unsent(State.SUPPRESSED, f"the address is suppressed: {reason}")


def claim_row(message: Message, ready: Ready, alias: str = routes.PRIMARY) -> bool:
    """Claim the message for this worker until the lease ends, and open a delivery attempt.

    False if another worker has it, if it is not due, or if its recipient is suppressed (for all mail or for the stream) and
    not excluded already.
    """
    is_excluded = as_transmitted(ready.recipient) in ready.exclude
    values: dict[str, Any] = {
        "sending": State.SENDING,
        "lease": options().claim_lease,
        "recipient": ready.recipient,
        "subject": replace_unstorable(ready.subject)[:SUBJECT_LENGTH],
        "id": message.pk,
        "attempts": message.attempts,
        "sources": list(SOURCES[State.SENDING]),
        "due_by": timezone.now() + EARLY,
        "addresses": [] if is_excluded else list(suppression.spellings(ready.recipient)),
        "stream": ready.stream,
        "transport": alias,
        "worker": socket.gethostname(),
        "started_at": timezone.now(),
        "pending": Outcome.PENDING,
    }
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, values)
        if cursor.rowcount != 1:
            return False
    message.attempts += 1
    message.recipient = ready.recipient
    log.info("attempt started", **message.log_fields(), attempt=message.attempts)
    return True
