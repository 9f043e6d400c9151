"""The page of one message: its answer, its buttons, its timeline and the mail."""

from datetime import timedelta
from email.message import MIMEPart
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.mail import EmailMessage, send_mail
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts import links, verification
from accounts.emails import VerifyAddress, VerifyAddressAgain
from accounts.models import EmailVerification, User
from mailer import outbox
from mailer.admin.timeline import timeline
from mailer.delivery import pipeline
from mailer.delivery.explain import facts
from mailer.feedback import events
from mailer.feedback.report import Report
from mailer.models import Bounce, Circuit, DeliveryAttempt, Message, Outcome, Queue, State, What, Worker
from mailer.recipients.suppression import suppress
from tests.mailer.kinds import Broken, Plain
from tests.mailer.worker import deliver_now as deliver
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


def url_of(message: Message) -> str:
    return reverse("admin:mailer_message_change", args=[message.pk])


def page_of(client: Client, message: Message) -> str:
    return client.get(url_of(message)).content.decode()


def buttons(client: Client, message: Message) -> list[str]:
    """Return the labels of the buttons under the sentence."""
    answer = page_of(client, message).partition('<section class="mail-answer')[2].partition("</section>")[0]
    return [part.partition("</button>")[0].rpartition(">")[2] for part in answer.split("<button")[1:]]


def press(client: Client, message: Message, action: str, **fields: str) -> str:
    data = {"CHANGE_FORM-action": action, "_selected_action": message.pk, **fields}
    return client.post(url_of(message), data, follow=True).content.decode()


@pytest.fixture
def message(user: User) -> Message:
    return outbox.enqueue(Plain(user))


def move(message: Message, state: State, **changes: Any) -> None:
    lease = Now() + timedelta(hours=1) if state is State.SENDING else None
    Message.objects.filter(pk=message.pk).update(state=state, claimed_until=lease, **changes)
    message.refresh_from_db()


def add_worker() -> None:
    Worker.objects.create(host="h", pid=1, release="", queues=list(Queue), seen_at=Now() + timedelta(hours=1))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.QUEUED, ["Cancel"]),
        (State.RETRYING, ["Cancel"]),
        (State.SENDING, []),
        (State.SENT, ["Send again"]),
        (State.HELD, ["Retry", "Cancel", "Mark as delivered"]),
        (State.FAILED, ["Retry", "Send again"]),
        (State.CANCELLED, ["Send again"]),
        (State.EXPIRED, ["Send again"]),
        (State.SUPPRESSED, ["Send again"]),
    ],
)
def test_a_state_offers_only_what_it_allows(
    operator: Client, message: Message, state: State, expected: list[str]
) -> None:
    add_worker()
    move(message, state)
    if state is State.SENDING:
        Message.objects.update(worker=Worker.objects.get().pk)

    assert buttons(operator, message) == expected


def test_without_a_worker_the_first_button_delivers(operator: Client, message: Message) -> None:
    assert buttons(operator, message) == ["Deliver now from here", "Cancel"]
    assert f'action="{reverse("admin:mailer_deliver_now")}"' in page_of(operator, message)


def test_while_the_transport_is_paused_the_first_button_probes(operator: Client, message: Message) -> None:
    add_worker()
    later = Now() + timedelta(hours=1)
    circuit = Circuit.objects.create(transport="transport", paused_since=Now(), paused_until=later, reason="refused")

    assert buttons(operator, message) == ["Probe now", "Cancel"]
    assert f'action="{reverse("admin:mailer_probe_now", args=[circuit.pk])}"' in page_of(operator, message)


def test_a_suppressed_address_can_be_allowed_again(operator: Client, message: Message) -> None:
    move(message, State.FAILED, reason="550")
    suppress("ann@example.com", "550", message)

    assert buttons(operator, message) == ["Retry", "Send again", "Allow mail again"]


def test_those_who_may_only_look_see_no_buttons(client: Client, message: Message) -> None:
    viewer = User.objects.create_user("viewer@example.com", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_message"))
    client.force_login(viewer)
    move(message, State.FAILED)

    assert buttons(client, message) == []
    for action in ("retry", "resend"):
        press(client, message, action)
    assert Message.objects.get().state == State.FAILED


def test_a_button_acts_and_the_timeline_keeps_who_pressed_it(operator: Client, message: Message) -> None:
    move(message, State.FAILED)

    page = press(operator, message, "retry")

    message.refresh_from_db()
    assert message.state == State.QUEUED
    assert "1 message queued again." in page
    assert "operator@example.com pressed: Retry" in page
    move(message, State.SENT, reason="")  # the reason, which named the person, is erased
    assert "operator@example.com pressed: Retry" in page_of(operator, message)
    assert "Retry" in operator.get(reverse("admin:mailer_message_history", args=[message.pk])).content.decode()


def test_the_page_loads_itself_again_until_the_message_is_settled(operator: Client, message: Message) -> None:
    assert '<meta http-equiv="refresh" content="5">' in page_of(operator, message)
    move(message, State.RETRYING, due_at=Now() + timedelta(hours=1))
    assert '<meta http-equiv="refresh" content="30">' in page_of(operator, message)
    for state in (State.HELD, State.SENT):
        move(message, state)
        assert "http-equiv" not in page_of(operator, message)


def test_the_timeline_tells_attempts_and_pauses_in_their_order(message: Message, settings: Settings) -> None:
    settings.MAILERS = settings.MAILERS | {"transport": {"OPTIONS": {"host": "mail.example", "port": 587}}}
    began = message.created_at
    for number, (outcome, code, seconds) in enumerate(
        [(Outcome.REFUSED_FOR_NOW, "451", 10), (Outcome.ACCEPTED, "250", 100)], start=1
    ):
        at = began + timedelta(seconds=seconds)
        DeliveryAttempt.objects.create(
            message=message,
            number=number,
            transport="transport",
            worker="host",
            started_at=at,
            finished_at=at + timedelta(milliseconds=120),
            outcome=outcome,
            phase="rcpt",
            code=code,
            response="says the server",
        )
    move(message, State.SENT, settled_at=began + timedelta(seconds=101))

    entries = timeline(message, facts([message])[message.pk])

    assert [(entry.moment.what, entry.pause) for entry in entries] == [
        ("Asked for", ""),
        ("Attempt 1: refused for now", "10 s"),
        ("Attempt 2: accepted", "1 min 30 s"),
        ("Settled: Sent", ""),
    ]
    detail = entries[1].moment.detail
    assert detail == "through transport (mail.example:587) · from host · 120 ms · step: rcpt · 451 says the server"


def test_the_page_says_what_the_receiving_side_said(operator: Client, user: User, smtp: Sink) -> None:
    message = deliver(outbox.enqueue(Plain(user)))
    at = timezone.now()
    bounced = Report(
        "1", What.BOUNCED, at, user.email, bounce=Bounce.HARD, code="5.1.1", text="<script>", message=message.pk
    )
    events.store(events.BOUNCE_MAIL, [Report("2", What.DELIVERED, at, message=message.pk), bounced])
    events.apply_due()

    page = page_of(operator, message)

    assert "Delivered at" in page
    assert "It came back at" in page
    assert "the address does not exist · 5.1.1 &lt;script&gt; · said by bounce mail" in page
    listed = operator.get(reverse("admin:mailer_message_changelist")).content.decode()
    assert "It came back at" in listed
    assert 'class="mail-level bad"' in listed


def test_the_timeline_has_the_seconds_and_the_zone(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user), delay=timedelta(hours=1))

    page = page_of(operator, message)

    for moment, what in ((message.created_at, "Asked for"), (message.due_at, "Due")):
        assert f"<time>{moment:%Y-%m-%d %H:%M:%S} UTC</time>" in page
        assert f"<strong>{what}</strong>" in page


def test_the_mail_is_shown_without_what_makes_its_links_work(operator: Client, user: User) -> None:
    link = verification.begin(user)
    message = outbox.enqueue(VerifyAddress(link))

    page = page_of(operator, message)
    html = operator.get(reverse("admin:mailer_message_html", args=[message.pk])).content.decode()

    for shown in (page, html):
        assert "http://localhost:8000/***" in shown
        assert links.code(links.VERIFY, link) not in shown
        assert str(link.pk) not in shown.replace(f"{message.arguments}", "").partition("mail-internals")[0]
    assert "Subject: Verify your e-mail address" in page


@pytest.mark.parametrize("page", ["change", "html"])
def test_to_look_at_a_mail_does_not_end_the_link_that_its_owner_has(operator: Client, user: User, page: str) -> None:
    link = verification.begin(user)
    EmailVerification.objects.update(expires_at=timezone.now() + timedelta(hours=11))  # the next mail gets a new one
    message = outbox.enqueue(VerifyAddressAgain(user.email))

    seen = operator.get(reverse(f"admin:mailer_message_{page}", args=[message.pk])).content.decode()

    assert "http://localhost:8000/***" in seen
    assert [each.is_open for each in EmailVerification.objects.filter(user=user)] == [True]
    assert EmailVerification.objects.get().pk == link.pk


def test_the_html_runs_nothing_and_loads_nothing(operator: Client, message: Message) -> None:
    page = operator.get(url_of(message))
    frame = operator.get(reverse("admin:mailer_message_html", args=[message.pk]))

    assert "frame-src 'self'" in page["Content-Security-Policy"]
    assert "'unsafe-inline'" not in page["Content-Security-Policy"]
    assert '<iframe class="mail-frame" sandbox src=' in page.content.decode()
    policy = frame["Content-Security-Policy"]
    assert policy.endswith("; sandbox")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert frame["X-Frame-Options"] == "SAMEORIGIN"


def test_the_html_runs_nothing_in_a_project_without_a_content_policy_either(
    operator: Client, message: Message, settings: Settings
) -> None:
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if "ContentSecurityPolicy" not in name]

    frame = operator.get(reverse("admin:mailer_message_html", args=[message.pk]))

    assert frame["Content-Security-Policy"].endswith("; sandbox")


def test_a_part_with_a_content_id_that_is_no_image_is_no_error(operator: Client) -> None:
    part = MIMEPart()
    part.set_content("text", cid="<part@shop.example>")
    mail = EmailMessage("With a part", "Text", None, ["ann@example.com"])
    mail.attach(part)
    message = outbox.enqueue_built(mail)

    assert operator.get(reverse("admin:mailer_message_html", args=[message.pk])).status_code == 200


def test_what_strangers_wrote_is_text_on_every_page(operator: Client, user: User, smtp: Sink) -> None:
    script = "<script>alert(1)</script>"
    User.objects.update(name=script)
    EmailMessage(script, script, None, [user.email], headers={"X-Note": script}).send()
    message = Message.objects.get()
    pipeline.deliver(message.pk)
    DeliveryAttempt.objects.update(response=script, code=script, worker=script)
    move(message, State.FAILED, reason=script, answers={script: "refused"})
    suppress(user.email, script, message)
    Worker.objects.create(host=script, pid=1, release="", doing=script)
    Circuit.objects.create(transport=script, host=script, reason=script, paused_until=Now() + timedelta(hours=1))
    pages = [
        *(reverse(f"admin:{name}") for name in ("index", "mailer_message_changelist", "mailer_worker_changelist")),
        *(reverse(f"admin:mailer_{name}_changelist") for name in ("circuit", "suppression")),
        reverse("admin:mailer_message_person") + f"?q={user.email}",
        reverse("admin:mailer_message_person") + f"?q={script}",
        url_of(message),
    ]

    seen = [operator.get(page).content.decode() for page in pages]
    seen.append(
        operator.post(url_of(message), {"CHANGE_FORM-action": "retry", "_selected_action": message.pk}).content.decode()
    )

    assert [page for page in seen if script in page or "&lt;script&gt;" not in page] == []


def test_a_mail_of_django_is_shown_as_it_was_handed_in(operator: Client, smtp: Sink) -> None:
    token = "cabc12-d41d8cd98f00b204e9800998ecf8427e"
    send_mail("A receipt", f"Thank you. https://shop.example/reset/MQ/{token}/", None, ["ann@example.com"])

    page = page_of(operator, Message.objects.get())

    assert "As it was handed in." in page
    assert "https://shop.example/***" in page
    assert token not in page


def test_a_code_in_a_subject_is_hidden_on_every_page(operator: Client, smtp: Sink) -> None:
    send_mail("493021 is your code", "Type it.", None, ["ann@example.com"])
    message = Message.objects.get()
    pipeline.deliver(message.pk)
    person = reverse("admin:mailer_message_person") + "?q=ann@example.com"
    pages = [url_of(message), person, reverse("admin:mailer_message_changelist")]

    seen = [operator.get(page).content.decode() for page in pages]
    Message.objects.update(payload=None)  # its retention ended
    seen.append(page_of(operator, message))

    assert [page.count("493021") for page in seen] == [0, 0, 0, 0]
    assert all("*** is your code" in page for page in (seen[0], seen[1], seen[3]))


def test_a_mail_that_cannot_be_built_says_why(operator: Client, user: User) -> None:
    message = outbox.enqueue(Broken(user))
    unknown = Message.objects.create(kind="shop.Future", recipient="ann@example.com")

    assert "It cannot be shown: " in page_of(operator, message)
    for each, words in ((message, "TemplateDoesNotExist"), (unknown, "is defined in this release")):
        assert words in operator.get(reverse("admin:mailer_message_html", args=[each.pk])).content.decode()


def test_its_task_is_looked_for_in_flower(operator: Client, message: Message, settings: Settings) -> None:
    settings.FLOWER_URL = "http://flower.example/"

    assert f"http://flower.example/tasks?name=mailer.tasks.deliver_message%20args%3A%22{message.pk}" in page_of(
        operator, message
    )


def test_the_page_costs_the_same_for_any_number_of_attempts(operator: Client, message: Message) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            page_of(operator, message)
        return len(seen)

    few = queries()
    now = timezone.now()
    rows = [DeliveryAttempt(message=message, number=n, transport="t", started_at=now) for n in range(1, 30)]
    DeliveryAttempt.objects.bulk_create(rows)

    assert queries() <= few
