"""Mail of a paused stream waits: it does not fail, and holds up no other mail."""

from datetime import timedelta
from io import StringIO
from typing import ClassVar

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.test import Client

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline, streams, sweep
from mailer.delivery.explain import explain, tally
from mailer.delivery.pulse import look
from mailer.feedback import reputation
from mailer.models import OPEN_END, Message, Queue, State, StreamReputation, Worker
from tests.mailer.kinds import Bulletin, Newsletter
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


class FormerNewsletter(Newsletter):
    """Newsletter, under the name that it had in an earlier release too."""

    aliases: ClassVar = ("tests.OldNews",)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def worker() -> None:
    later = Now() + timedelta(hours=1)
    Worker.objects.create(host="web-1", pid=1, queues=list(Queue), seen_at=later, swept_at=later, broker_at=later)


def states(kind: type[Newsletter] | type[Bulletin]) -> set[str]:
    return set(Message.objects.filter(kind=kind.kind).values_list("state", flat=True))


def test_mail_of_a_paused_stream_is_touched_once_and_other_mail_leaves(user: User, smtp: Sink) -> None:
    reputation.pause("news", "")
    outbox.enqueue_many([*[Newsletter(user)] * 40, Bulletin(user), *[Newsletter(user)] * 10, Bulletin(user)])

    assert pipeline.deliver_due(list(Queue)) == 52

    assert (states(Newsletter), states(Bulletin), len(smtp.received)) == ({State.QUEUED}, {State.SENT}, 2)
    assert Message.objects.filter(due_at=OPEN_END, worker=None, reservations=0, attempts=0).count() == 50
    assert pipeline.deliver_due(list(Queue)) == 0


def test_it_leaves_when_the_stream_is_resumed(user: User, smtp: Sink) -> None:
    run("pause_stream", "news")
    message, former = outbox.enqueue(Newsletter(user)), outbox.enqueue(FormerNewsletter(user))
    Message.objects.filter(pk=former.pk).update(kind="tests.OldNews")
    assert pipeline.deliver(message.pk) == "waits: its stream is paused"
    pipeline.deliver_due(list(Queue))
    sweep.sweep()
    assert len(smtp.received) == 0

    assert run("resume_stream", "news") == (
        "The stream 'news' goes on. Workers take the mail that waits for it in some seconds.\n"
    )
    pipeline.deliver_due(list(Queue))

    assert len(smtp.received) == 2
    assert run("resume_stream", "news") == "The stream 'news' was not paused.\n"


def test_what_is_set_aside_at_the_moment_of_the_resumption_is_found_by_the_sweep(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Newsletter(user))
    Message.objects.filter(pk=message.pk).update(due_at=OPEN_END)
    assert str(explain(Message.objects.get(), look())) == "Its stream goes on. A sweep makes it due in a moment."
    sweep.sweep()
    assert Message.objects.due().count() == 1


def test_mail_of_other_streams_and_of_other_releases_stays_aside(user: User) -> None:
    reputation.pause("news", "")
    outbox.enqueue_many([Newsletter(user), Bulletin(user), Bulletin(user)])
    Message.objects.update(due_at=OPEN_END)
    unknown = Message.objects.latest("pk")
    Message.objects.filter(pk=unknown.pk).update(kind="shop.Gone")
    assert streams.make_due() == 1
    assert set(Message.objects.set_aside().values_list("kind", flat=True)) == {"tests.Newsletter", "shop.Gone"}


def test_it_is_still_cancelled_and_expires(user: User, smtp: Sink) -> None:
    reputation.pause("news", "")
    cancelled, expiring = outbox.enqueue(Newsletter(user)), outbox.enqueue(Newsletter(user))
    pipeline.deliver_due(list(Queue))
    assert outbox.cancel(cancelled)
    Message.objects.filter(pk=expiring.pk).update(expires_at=Now())
    sweep.sweep()
    assert list(Message.objects.order_by("pk").values_list("state", flat=True)) == [State.CANCELLED, State.EXPIRED]


@pytest.mark.usefixtures("worker")
def test_each_message_that_waits_for_it_says_so(user: User, smtp: Sink) -> None:
    StreamReputation.objects.create(
        stream="news", complaints=12, sent=3_000, paused_since=Now(), reason="0.4 % of it was reported as spam"
    )
    aside, later, bulletin = (
        outbox.enqueue(Newsletter(user)),
        outbox.enqueue(Newsletter(user), delay=timedelta(days=1)),
        Bulletin,
    )
    outbox.enqueue(bulletin(user))
    pipeline.deliver_due(list(Queue))
    due = outbox.enqueue(Newsletter(user))

    pulse = look()
    for message in (aside, due):
        message.refresh_from_db()
        why = explain(message, pulse)
        assert why.sentence.startswith("The stream 'news' is paused since 20")
        assert why.sentence.endswith(" UTC: 0.4 % of it was reported as spam. Resume it when the cause is found.")
        assert (why.is_stuck, why.action, why.target, why.until) == (True, "Resume the stream", "news", None)
    later.refresh_from_db()
    assert explain(later, pulse).sentence == "It was asked to be sent later."
    assert [cause.number for cause in tally(pulse, Message.objects.waiting())] == [2, 1]


@pytest.mark.usefixtures("worker")
def test_it_counts_as_waiting_too_long_and_everybody_sees_no_figures(user: User, client: Client) -> None:
    reputation.pause("news", "secret")
    outbox.enqueue(Newsletter(user))
    pipeline.deliver_due(list(Queue))
    Message.objects.update(first_due_at=Now() - timedelta(hours=1))

    [(sentence, number)] = client.get("/readyz").json()["waiting"].items()
    assert (number, "The stream 'news' has been paused" in sentence, "secret" in sentence) == (1, True, False)
    with pytest.raises(CommandError, match="1 message has waited"):
        run("mail_status")
    said = run("mail_log", user.email)
    assert "secret. resume_stream continues it." in said
    assert "9999" not in said


def test_operators_resume_it_with_a_button(user: User, client: Client, smtp: Sink) -> None:
    operator = User.objects.create_superuser("operator@example.com")
    client.force_login(operator)
    reputation.pause("news", "wrong list")
    message = outbox.enqueue(Newsletter(user))
    pipeline.deliver_due(list(Queue))

    address = "/admin/mailer/streamreputation/news/resume/"
    for page in ("/admin/", f"/admin/mailer/message/{message.pk}/change/"):
        seen = client.get(page).content.decode()
        assert "paused by a person since" in seen
        assert f'action="{address}"' in seen
    answer = client.post(address, {"message": message.pk}, follow=True).content.decode()
    assert "goes on in some seconds" in answer
    assert "is not paused any more" in client.post(address, follow=True).content.decode()
    assert "wrong list" not in client.get("/admin/mailer/streamreputation/").content.decode()

    client.force_login(user)
    assert client.post(address).status_code == 302  # to the log-in
    sweep.sweep()
    pipeline.deliver_due(list(Queue))
    assert len(smtp.received) == 1


@pytest.mark.parametrize("command", ["pause_stream", "resume_stream"])
def test_an_unknown_stream_is_answered_with_those_that_exist(command: str) -> None:
    with pytest.raises(CommandError, match=r"No kind of e-mail has the stream 'pigeons'. The streams are: .*news"):
        run(command, "pigeons")
