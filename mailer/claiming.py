"""The claim: of all who hold a task for the same message, one may transmit it."""

import socket
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from mailer.conf import options
from mailer.models import SOURCES, DeliveryAttempt, Message, Outcome, State, Suppression
from mailer.suppression import spellings

# One statement, so that there is neither a claim without its attempt nor a second round trip. Its WHERE is the guard: of two
# workers PostgreSQL lets one wait for the other, and then shows it that the row has moved on. Leases go by the database's
# clock, which all workers share.
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


def claim(
    message: Message,
    *,
    recipient: str,
    may_be_suppressed: bool,
    stream: str,
    subject: str,
    transport: str,
    due_by: datetime,
) -> bool:
    """Takes the message for this worker until its lease ends, and opens an attempt.

    False if somebody else has it, if it is not due by `due_by`, or if its recipient is suppressed (and may not be),
    be it for this stream alone.
    """
    values: dict[str, Any] = {
        "sending": State.SENDING,
        "lease": options().claim_lease,
        "recipient": recipient,
        "subject": subject,
        "id": message.pk,
        "attempts": message.attempts,
        "sources": list(SOURCES[State.SENDING]),
        "due_by": due_by,
        "addresses": [] if may_be_suppressed else list(spellings(recipient)),
        "stream": stream,
        "transport": transport,
        "worker": socket.gethostname(),
        "started_at": timezone.now(),
        "pending": Outcome.PENDING,
    }
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, values)
        if cursor.rowcount != 1:
            return False
    message.attempts += 1
    message.recipient = recipient
    return True
