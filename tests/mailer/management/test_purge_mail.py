"""`purge_mail`."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.models import Message, Payload, State
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("purge_mail", *arguments, stdout=out)
    return out.getvalue()


def test_a_dry_run_says_what_would_be_deleted_and_deletes_nothing(user: User) -> None:
    for _ in range(2):
        outbox.enqueue(Plain(user))
    outbox.enqueue_built(EmailMessage("Hi", "text", None, ["bob@example.com"]))
    Message.objects.update(state=State.SENT, settled_at=Now() - timedelta(days=91))
    Payload.objects.update(created_at=Now() - timedelta(days=91))
    outbox.enqueue(Plain(user))

    assert run("--dry-run").startswith("3 messages would be deleted, and 1 stored body.")
    assert Message.objects.count() == 4

    assert run() == "3 messages older than 90 days deleted.\n"
    assert (Message.objects.count(), Payload.objects.count()) == (1, 0)
