"""Ask a peer for mail: `python -m tests.bench.peers.load naive` or `… post_office`."""

import sys
from collections.abc import Sequence
from itertools import batched
from typing import Any

import django
from django.db import connection, transaction

django.setup()

from django.contrib.auth.models import User  # noqa: E402 - the models need the settings
from post_office import mail as post_office  # noqa: E402
from post_office.models import PRIORITY, Email, EmailTemplate  # noqa: E402

from tests.bench.load import Load  # noqa: E402
from tests.bench.peers import celery  # noqa: E402, F401 - the tasks need their application
from tests.bench.peers.tasks import context_for, send_verification  # noqa: E402

TEMPLATE = {
    "subject": "Verify your e-mail address for {{ site_name }}",
    "content": '{% include "email/verify_address/body.txt" %}',
    "html_content": '{% include "email/verify_address/body.html" %}',
}
PEOPLE = """
INSERT INTO auth_user (id, username, email, first_name, last_name, password, is_superuser, is_staff, is_active, date_joined)
SELECT n, n, 'user-' || n || '@example.com', 'Ann Example', '', 'x', false, false, true, now()
FROM generate_series(1, %s) AS n ON CONFLICT DO NOTHING
"""


def seed(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(PEOPLE, [number])
        cursor.execute("ANALYZE")
    EmailTemplate.objects.update_or_create(name="verify", defaults=TEMPLATE)


def people(first: int, end: int) -> list[tuple[str, User]]:
    return [(user.email, user) for user in User.objects.filter(pk__gte=first, pk__lt=end).order_by("pk")]


def ask_for_task(user: User, urgent: bool) -> None:
    with transaction.atomic():
        transaction.on_commit(lambda: send_verification.delay(user.pk))


def ask_for_tasks(users: Sequence[User], urgent: bool) -> None:
    for user in users:
        send_verification.delay(user.pk)


def arguments(user: User, urgent: bool) -> dict[str, Any]:
    """Have it render in the worker, as ours does."""
    priority = PRIORITY.high if urgent else PRIORITY.medium
    context = context_for(user)
    return {
        "recipients": user.email,
        "template": "verify",
        "context": context,
        "render_on_delivery": True,
        "priority": priority,
    }


def post_one(user: User, urgent: bool) -> None:
    with transaction.atomic():
        post_office.send(**arguments(user, urgent))


def post_many(users: Sequence[User], urgent: bool) -> None:
    for batch in batched(users, 1000):
        post_office.send_many([arguments(user, urgent) for user in batch])


def forget() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {Email._meta.db_table} CASCADE")


LOADS = {
    "naive": Load(seed, people, ask_for_task, ask_for_tasks, forget),
    "post_office": Load(seed, people, post_one, post_many, forget),
}

if __name__ == "__main__":
    LOADS[sys.argv[1]].answer()
