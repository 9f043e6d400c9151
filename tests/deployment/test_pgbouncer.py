"""The whole project behind pgbouncer in transaction mode: each transaction may get another connection to PostgreSQL."""

from tests.environment import new_directory
from tests.pgbouncer import PgBouncer
from tests.servers import Postgres
from tests.smtp_sink import Sink
from tests.stack import Stack

LIMIT = "ALTER ROLE postgres SET statement_timeout = '30s'"
"""As docs/scaling.md says, with the role of the tests."""

ENQUEUE = """
from datetime import timedelta
from django.db import connection, transaction
from accounts.emails import PasswordChanged
from accounts.models import User
from mailer import outbox
from mailer.models import Message
people = [User.objects.create_user(f"user-{number}@example.com") for number in range(30)]
print(outbox.enqueue_many(PasswordChanged(user) for user in people))
for days in range(3):
    with transaction.atomic():
        outbox.enqueue(PasswordChanged(people[0]), delay=timedelta(days))
print(outbox.cancel_all(Message.objects.filter(due_at__gt=outbox.now() + timedelta(days=1.5)), reason="a test"))
with connection.cursor() as cursor:
    cursor.execute("SHOW statement_timeout")
    print(*cursor.fetchone())
"""

LOOK = """
from django.test import Client
from accounts.models import User
client = Client(SERVER_NAME="localhost")
client.force_login(User.objects.create_superuser("boss@example.com", "a password of 3 words"))
print(client.get("/admin/mailer/message/").content.decode())
"""


def test_everything_works_behind_a_pooler_that_lends_connections_by_transaction(sink: Sink) -> None:
    directory = new_directory("pooled")
    pooler = PgBouncer(new_directory("pgbouncer"), Postgres(directory / "pg").sockets)
    with Stack(directory, sink, DATABASE_URL=pooler.url) as stack:
        stack.sql(LIMIT)
        stack.surround(pooler)
        stack.start("web", "worker")
        assert stack.sign_up("ann@example.com").ok
        assert stack.run(ENQUEUE).split() == ["30", "1", "30s"]
        stack.wait_for(lambda: len(sink.received) == 32, "every mail")
        stack.sql("UPDATE mailer_message SET due_at = now() WHERE due_at > now() + interval '1 hour'")
        stack.wait_for(lambda: len(sink.received) == 33, "the mail without a task, which the sweep finds")
        assert "user-7@example.com" in stack.run(LOOK)
        states = [message["state"] for message in stack.messages()]
        logs = stack.log("web") + stack.log("worker")

    assert sorted(states) == ["cancelled"] + ["sent"] * 33
    assert "Traceback" not in logs
    assert "prepared statement" not in logs
