"""Ask our outbox for the shipped verification mail, as the sign-up does."""

from collections.abc import Sequence

import django
from django.db import connection, transaction

django.setup()

from accounts.emails import VerifyAddress  # noqa: E402 - the models need the settings
from accounts.models import EmailVerification  # noqa: E402
from mailer import outbox  # noqa: E402
from mailer.models import Message, Queue  # noqa: E402
from tests.bench.load import Load  # noqa: E402

PEOPLE = """
INSERT INTO accounts_user (id, email, name, language, time_zone, password, is_superuser, is_staff, is_active, was_verified,
    date_joined)
SELECT n, 'user-' || n || '@example.com', 'Ann Example', 'en', '', 'x', false, false, true, false, now()
FROM generate_series(1, %s) AS n;
"""
LINKS = """
INSERT INTO accounts_emailverification (id, secret, created_at, expires_at, user_id, address, begun_by)
SELECT gen_random_uuid(), md5(id::text), now(), now() + interval '1 day', id, email, gen_random_uuid() FROM accounts_user
"""
TABLES = """
SELECT string_agg(tablename, ', ') FROM pg_tables WHERE tablename LIKE 'mailer\\_%' OR tablename = 'accounts_movingwindow'
"""


def seed(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(PEOPLE, [number])
        cursor.execute(LINKS)
        cursor.execute("ANALYZE")


def make(first: int, end: int) -> list[tuple[str, VerifyAddress]]:
    links = EmailVerification.objects.filter(user__gte=first, user__lt=end).select_related("user").order_by("user")
    return [(link.address, VerifyAddress(link)) for link in links]


def ask_for_one(mail: VerifyAddress, urgent: bool) -> None:
    with transaction.atomic():
        outbox.enqueue(mail)


def ask_for_many(mails: Sequence[VerifyAddress], urgent: bool) -> None:
    outbox.enqueue_many(mails)
    if not urgent:
        Message.objects.update(queue=Queue.BULK)


def forget() -> None:
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        [tables] = cursor.fetchone()
        cursor.execute(f"TRUNCATE {tables} CASCADE")


if __name__ == "__main__":
    Load(seed, make, ask_for_one, ask_for_many, forget).answer()
