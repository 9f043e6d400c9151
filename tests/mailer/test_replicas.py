"""A project that reads from a replica. It is another database here, without any table: a replica that lags for ever."""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from django.core.management import call_command
from django.db import connections, router
from django.db.models.functions import Now

from accounts.models import EmailVerification, User
from mailer import outbox, replicas
from mailer.delivery import pipeline, retention
from mailer.delivery.explain import explain
from mailer.delivery.pulse import look
from mailer.email import Email, Recipient
from mailer.models import Message, Queue, State
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


class Related(Email):
    """Needs another row than the one it is given, and asks for one itself."""

    template: ClassVar = "email/test"
    verification: EmailVerification

    def recipient(self) -> Recipient:
        return Recipient(self.verification.user.email)

    def is_wanted(self) -> bool:
        return User.objects.filter(pk=self.verification.user_id).exists()

    def context(self) -> dict[str, Any]:
        return {"sent_by": "a test", "moment": self.verification.created_at}


class FromTheReplica:
    """A project's router."""

    def db_for_read(self, model: type, **hints: Any) -> str:
        return "replica"

    def db_for_write(self, model: type, **hints: Any) -> str:
        return "default"


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    default = connections["default"].settings_dict
    connections.settings["replica"] = default | {"NAME": "postgres"}
    monkeypatch.setattr(router, "routers", [FromTheReplica()])
    replicas.install()
    yield
    connections["replica"].close()
    del connections["replica"], connections.settings["replica"]


@pytest.mark.parametrize("number", [1, 3])
def test_a_replica_that_lags_loses_no_mail(user: User, smtp: Sink, replica: None, number: int) -> None:
    others = [User.objects.create_user(f"ben{n}@example.com") for n in range(number)]
    rows = [EmailVerification.objects.create(user=each, address=each.email) for each in others]
    for row in rows:
        outbox.enqueue(Related(row))

    assert pipeline.deliver_due(list(Queue)) == number
    assert {(message.state, message.reason) for message in Message.objects.all()} == {(State.SENT, "")}


def test_all_else_reads_what_was_written(user: User, smtp: Sink, replica: None) -> None:
    first = outbox.enqueue(Plain(user), key="k")
    assert outbox.enqueue(Plain(user), key="k") == first
    assert explain(first, look())
    pipeline.deliver(first.pk)
    again = outbox.resend(Message.objects.get(pk=first.pk))
    assert again.resent_from == first
    assert outbox.cancel_all(Message.objects.filter(pk=again.pk), reason="a test") == 1
    assert outbox.enqueue_many(Plain(user) for _ in range(2)) == 2
    with contextlib.suppress(SystemExit):  # it says by its exit code that there are no workers
        call_command("mail_status")
    Message.objects.update(settled_at=Now())
    retention.purge()


def test_the_projects_own_reads_elsewhere_stay_where_they_were(replica: None) -> None:
    assert (router.db_for_read(User), router.db_for_read(Message)) == ("replica", "default")
    with replicas.reading_from_writer():
        assert router.db_for_read(User) == "default"
    assert router.db_for_read(User) == "replica"
