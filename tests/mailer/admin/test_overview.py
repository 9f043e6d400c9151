"""The front page and the banner say in words what does not run, what waits and why."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from mailer import outbox
from mailer.admin import deliver_now, overview
from mailer.delivery import pipeline
from mailer.delivery.heartbeat import Heartbeat, heartbeat
from mailer.delivery.pulse import look
from mailer.models import Circuit, Message, Queue, Role, State, Worker
from tests.mailer.kinds import Plain, Receipt
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db

HOME = "/admin/"


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("operator@example.com"))
    return client


@pytest.fixture
def all_is_well() -> None:
    heartbeat.queues, heartbeat.broker_answers = list(Queue), True
    heartbeat.beat()
    Heartbeat(Role.BEAT).beat()
    later = Now() + timedelta(hours=1)  # however slow this machine is
    Worker.objects.update(seen_at=later, swept_at=later, broker_at=later)


def page(client: Client, url: str = HOME) -> str:
    return client.get(url).content.decode()


@pytest.mark.usefixtures("all_is_well")
def test_there_is_no_banner_while_all_is_well(operator: Client) -> None:
    seen = page(operator)

    assert "mail-banner" not in seen
    for line in ("1 worker process runs on", "The broker answers.", "Celery beat runs.", "All transports work."):
        assert line in seen
    assert "No message waits." in seen
    assert "No message was settled in the last hour, and none is held." in seen


@pytest.mark.usefixtures("all_is_well")
@pytest.mark.parametrize(
    ("break_it", "words", "button"),
    [
        ({"role": "worker"}, "No worker has been running since 20", "Deliver now from here"),
        ({"role": "beat"}, "Celery beat has not been running since 20", ""),
        (
            {"broker_at": Now() - timedelta(minutes=1)},
            "The broker has not answered the workers since 20",
            "Deliver now",
        ),
        ({"swept_at": Now() - timedelta(minutes=1)}, "No worker has swept since 20", ""),
    ],
)
def test_each_page_says_what_does_not_run_with_its_button(
    operator: Client, break_it: dict[str, Any], words: str, button: str
) -> None:
    if role := break_it.get("role"):
        Worker.objects.filter(role=role).update(seen_at=Now() - timedelta(minutes=1))
    else:
        Worker.objects.update(**break_it)

    for url in (HOME, reverse("admin:accounts_user_changelist")):
        banner = page(operator, url).partition('<ul class="mail-banner"')[2].partition("</ul>")[0]
        assert words in banner
        assert button in banner
        assert banner.count("<li>") == 1


def test_staff_who_may_not_see_messages_see_nothing_of_it(client: Client) -> None:
    client.force_login(User.objects.create_user("staff@example.com", is_staff=True))

    seen = page(client)

    assert "mail-banner" not in seen
    assert "What waits" not in seen


def test_the_login_page_tells_nothing(client: Client) -> None:

    assert "mail-banner" not in page(client, "/admin/login/")


@pytest.mark.usefixtures("all_is_well")
def test_what_waits_is_grouped_by_its_cause(operator: Client, user: User) -> None:
    for _ in range(3):
        outbox.enqueue(Plain(user))
    held = outbox.enqueue(Receipt(user))
    Message.objects.filter(pk=held.pk).update(state=State.HELD, reason="it may have arrived")
    Message.objects.update(due_at=Now(), first_due_at=Now())

    causes = overview.overview(look()).causes

    assert [(cause.number, cause.explanation.sentence) for cause in causes] == [
        (3, "It is due, and a worker takes it in a moment."),
        (1, "Held: it may have arrived. Retry it, cancel it or mark it as delivered."),
    ]
    assert "Held: it may have arrived." in page(operator)


def test_the_last_hour_tells_how_long_people_waited(operator: Client, user: User, smtp: Sink) -> None:
    for seconds in (1, 2, 30):
        row = outbox.enqueue(Plain(user))
        pipeline.deliver(row.pk)
        Message.objects.filter(pk=row.pk).update(first_due_at=F("settled_at") - timedelta(seconds=seconds))
    old = outbox.enqueue(Plain(user))
    Message.objects.filter(pk=old.pk).update(state=State.FAILED, settled_at=Now() - timedelta(hours=2))

    held = outbox.enqueue(Receipt(user))
    Message.objects.filter(pk=held.pk).update(state=State.HELD)

    assert overview.last_hour() == [
        overview.Hour("tests.Plain", 3, 0, 0, timedelta(seconds=2), timedelta(seconds=30)),
        overview.Hour("tests.Receipt", 0, 0, 1, None, None),
    ]
    seen = page(operator)
    assert "30.00 s" in seen
    assert "About a user, with a value." in seen


def test_the_overview_costs_the_same_for_any_number_of_messages(
    user: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    outbox.enqueue_many(Plain(user) for _ in range(50))
    pulse = look()

    with django_assert_num_queries(3):
        overview.overview(pulse)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Count the deliveries that are started; that one delivers is seen on real processes (tests/browser)."""
    calls: list[bool] = []

    def start() -> int:
        calls.append(True)
        return 4242

    monkeypatch.setattr(deliver_now, "start", start)
    return calls


def test_a_delivery_is_started_once_and_who_asked_for_it_is_kept(
    operator: Client, started: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = reverse("admin:mailer_deliver_now")
    there = reverse("admin:mailer_message_changelist")

    assert operator.post(url, {"next": there}).headers["Location"] == there
    assert started == [True]
    assert "/4242" in page(operator)  # Django's recent actions

    monkeypatch.setattr(heartbeat, "role", Role.COMMAND)
    heartbeat.beat()
    assert "runs already" in operator.post(url, {"next": "https://evil.example"}, follow=True).content.decode()
    assert started == [True]


def test_a_mail_waits_at_a_server_that_refuses_connections(operator: Client) -> None:
    Circuit.objects.create(
        transport="transport", paused_since=Now(), paused_until=Now(), reason="127.0.0.1:1: Connection refused"
    )

    seen = page(operator)

    assert "127.0.0.1:1: Connection refused" in seen
    assert "Probe now" in seen
