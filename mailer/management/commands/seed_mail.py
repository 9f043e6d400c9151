from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection

from mailer.composing.previews import all_kinds
from mailer.management.operator import OperatorCommand
from mailer.management.progress import Progress
from mailer.models import DeliveryAttempt, Message, Outcome, State

BATCH = 50_000
"""Messages of one statement."""

# One in 100 failed, one in 200 is held, one in 200 waits, and the others were sent. None is due before a month has passed,
# so no worker sends one.
MESSAGES = f"""
WITH numbers AS (
    SELECT n, statement_timestamp() - (%(total)s - n) * interval '30 days' / %(total)s AS moment
    FROM generate_series(%(first)s, %(last)s) AS n
)
INSERT INTO {Message._meta.db_table} (
    kind, arguments, recipient, subject, message_id_header, queue, key, state, reason, attempts, counted_after,
    created_at, first_due_at, due_at, settled_at
)
SELECT
    (%(kinds)s::text[])[1 + n %% %(number_of_kinds)s],
    '{{"address": "nobody@example.com", "sent_by": "seed_mail"}}',
    'person' || n %% 100000 || '@example' || n %% 97 || '.com',
    'Order ' || n,
    '<seed.' || n || '.' || gen_random_uuid() || '@example.com>',
    (ARRAY['critical', 'default', 'bulk'])[1 + n %% 3],
    '',
    CASE WHEN n %% 200 = 0 THEN '{State.HELD}' WHEN n %% 200 = 1 THEN '{State.QUEUED}'
         WHEN n %% 100 = 2 THEN '{State.FAILED}' ELSE '{State.SENT}' END,
    CASE WHEN n %% 200 = 0 THEN 'the answer of the server was lost'
         WHEN n %% 100 = 2 THEN 'refused for good: 550 5.1.1 no such user' ELSE '' END,
    CASE WHEN n %% 200 = 1 THEN 0 ELSE %(attempts)s END,
    0,
    moment, moment,
    CASE WHEN n %% 200 = 1 THEN statement_timestamp() + interval '30 days' ELSE moment END,
    CASE WHEN n %% 200 > 1 THEN moment + interval '2 seconds' END
FROM numbers
RETURNING id
"""  # noqa: S608 - the names are our own

ATTEMPTS = f"""
INSERT INTO {DeliveryAttempt._meta.db_table} (
    message_id, number, transport, worker, started_at, finished_at, outcome, phase, code, response
)
SELECT
    id, number, 'transport', 'host-' || id %% 3, created_at + number * interval '1 second',
    created_at + number * interval '1 second' + interval '120 milliseconds',
    CASE WHEN number < attempts THEN '{Outcome.REFUSED_FOR_NOW}' WHEN state = '{State.FAILED}'
         THEN '{Outcome.REFUSED_FOR_GOOD}' WHEN state = '{State.HELD}' THEN '{Outcome.UNCERTAIN}'
         ELSE '{Outcome.ACCEPTED}' END,
    'dot',
    CASE WHEN number < attempts THEN '451' WHEN state = '{State.SENT}' THEN '250' ELSE '550' END,
    CASE WHEN number < attempts THEN '4.7.1 come back later' WHEN state = '{State.SENT}' THEN '2.0.0 queued'
         ELSE '5.1.1 no such user' END
FROM {Message._meta.db_table}, generate_series(1, attempts) AS number
WHERE id BETWEEN %(first_id)s AND %(last_id)s
"""  # noqa: S608


class Command(OperatorCommand):
    help = (
        "Fill the outbox with made-up messages and attempts, to see the admin with much mail. Only with DEBUG. No worker "
        "sends them for a month. Example: seed_mail --messages 1000000 --attempts 3"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--messages", type=int, default=10_000, metavar="NUMBER")
        parser.add_argument(
            "--attempts", type=int, default=1, metavar="NUMBER", help="of each message that does not wait"
        )

    def handle(self, *args: Any, messages: int, attempts: int, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("Made-up messages are for development: this needs DEBUG=1.")
        if messages < 1 or attempts < 0:
            raise CommandError("Give --messages of 1 or more and --attempts of 0 or more.")
        progress = Progress(self.stderr, "messages", messages)
        for number in _seed(messages, attempts):
            progress(number)
        progress.end()
        with connection.cursor() as cursor:  # otherwise the planner knows nothing of them until autovacuum ran
            cursor.execute(f"ANALYZE {Message._meta.db_table}, {DeliveryAttempt._meta.db_table}")


def _seed(messages: int, attempts: int) -> Iterator[int]:
    """Insert in batches, a transaction each. Yield the number of messages of each."""
    kinds = [kind.kind for kind in all_kinds()]
    values: dict[str, Any] = {"total": messages, "attempts": attempts, "kinds": kinds, "number_of_kinds": len(kinds)}
    for first in range(1, messages + 1, BATCH):
        last = min(first + BATCH - 1, messages)
        with connection.cursor() as cursor:
            cursor.execute(MESSAGES, values | {"first": first, "last": last})
            ids = [row[0] for row in cursor.fetchall()]
            cursor.execute(ATTEMPTS, {"first_id": min(ids), "last_id": max(ids)})
        yield last - first + 1
