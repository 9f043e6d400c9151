"""What operators see and may do in the admin."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape
from pytest_django import Settings

from accounts import verification
from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline
from mailer.delivery.explain import explain
from mailer.delivery.pulse import look
from mailer.email import Stream
from mailer.models import Circuit, DeliveryAttempt, Message, State, Suppression, TransportState, Worker
from mailer.recipients import subscriptions, suppression
from mailer.recipients.subscriptions import Membership
from tests.mailer.kinds import Plain, Raising
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db


def page_of(message: Message) -> str:
    return reverse("admin:mailer_message_change", args=[message.pk])


def act(client: Client, action: str, *messages: Message) -> str:
    data = {"action": action, "_selected_action": [m.pk for m in messages]}
    return client.post(reverse("admin:mailer_message_changelist"), data, follow=True).content.decode()


def test_every_page_of_the_admin_opens(operator: Client, user: User, smtp: Sink) -> None:
    pipeline.deliver(outbox.enqueue(Plain(user)).pk)
    verification.begin(user)
    Suppression.objects.create(address="gone@example.com", reason="550")
    for app, model, pk in (
        ("accounts", "user", user.pk),
        ("accounts", "emailverification", user.email_verifications.get().pk),
        ("mailer", "message", Message.objects.get().pk),
        ("mailer", "suppression", Suppression.objects.get().pk),
        ("mailer", "circuit", Circuit.objects.create(transport="transport").pk),
        ("mailer", "transportstate", TransportState.objects.create(alias="transport").pk),
        ("mailer", "worker", Worker.objects.get().pk),
    ):
        for name, arguments in (("changelist", []), ("change", [pk])):
            response = operator.get(reverse(f"admin:{app}_{model}_{name}", args=arguments))
            assert response.status_code == 200, (model, name)
            assert "'unsafe-inline'" not in response["Content-Security-Policy"]


def test_a_message_shows_its_attempts(operator: Client, user: User, smtp: Sink) -> None:
    smtp.script.always["RCPT"] = "550 5.6.0 a virus was found"
    message = outbox.enqueue(Plain(user))
    pipeline.deliver(message.pk)

    page = operator.get(page_of(message)).content.decode()

    for text in ("Failed", "refused for good: 550 5.6.0 a virus was found", "ann@example.com", "550", " ms"):
        assert text in page


def test_a_build_error_is_shown(operator: Client, user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Raising(user))
    pipeline.deliver(message.pk)

    assert "could not be built: ZeroDivisionError" in operator.get(page_of(message)).content.decode()


@pytest.mark.parametrize("model", ["message", "emailverification"])
def test_rows_of_a_state_machine_are_read_only(operator: Client, user: User, model: str) -> None:
    message = outbox.enqueue(Plain(user))
    app, pk = ("mailer", message.pk) if model == "message" else ("accounts", verification.begin(user).pk)

    assert operator.get(reverse(f"admin:{app}_{model}_add")).status_code == 403
    assert operator.post(reverse(f"admin:{app}_{model}_change", args=[pk]), {"state": "sent"}).status_code == 403
    assert operator.post(reverse(f"admin:{app}_{model}_delete", args=[pk]), {"post": "yes"}).status_code == 403
    message.refresh_from_db()
    assert message.state == State.QUEUED


def test_only_held_or_failed_messages_are_retried(operator: Client, user: User) -> None:
    failed, sent = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    Message.objects.filter(pk=failed.pk).update(state=State.FAILED, attempts=3, settled_at=timezone.now())
    Message.objects.filter(pk=sent.pk).update(state=State.SENT)

    page = act(operator, "retry", failed, sent)

    assert "1 message queued again; 1 skipped" in page
    failed.refresh_from_db()
    sent.refresh_from_db()
    assert (failed.state, failed.counted_after, failed.settled_at) == (State.QUEUED, 3, None)
    assert failed.reason == "retried by operator@example.com"
    assert sent.state == State.SENT


def test_a_message_whose_key_is_taken_is_skipped(operator: Client, user: User) -> None:
    failed = outbox.enqueue(Plain(user), key="welcome:1")
    Message.objects.filter(pk=failed.pk).update(state=State.FAILED)
    outbox.enqueue(Plain(user), key="welcome:1")

    assert "0 messages queued again; 1 skipped because of their state or key." in act(operator, "retry", failed)


def test_an_address_is_suppressed_by_hand_and_found_in_any_spelling(operator: Client) -> None:
    add, found = reverse("admin:mailer_suppression_add"), reverse("admin:mailer_suppression_changelist")
    for spelling in ("Ann@BÜCHER.example", "ann@xn--bcher-kva.example"):
        operator.post(add, {"address": spelling, "stream": "", "reason": "by hand"})

    assert Suppression.objects.get().address == "ann@xn--bcher-kva.example"
    assert "by hand" in operator.get(found, {"q": "ann@bücher.example"}).content.decode()


def test_messages_are_counted_before_the_filter_of_the_list_stops_matching(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(state=State.FAILED)
    data = {"action": "retry", "_selected_action": [message.pk]}

    response = operator.post(reverse("admin:mailer_message_changelist") + "?state__exact=failed", data, follow=True)

    assert "1 message queued again." in response.content.decode()


def test_settled_messages_are_resent_as_new_messages(operator: Client, user: User, smtp: Sink) -> None:
    sent, waiting, orphan = (outbox.enqueue(Plain(user)) for _ in range(3))
    pipeline.deliver(sent.pk)
    Message.objects.filter(pk=orphan.pk).update(state=State.FAILED, arguments={"account": 0})

    page = act(operator, "resend", sent, waiting, orphan)

    assert "1 message resent; 1 skipped because of their state." in page
    assert f"Message {orphan.pk} cannot be resent: user 0 " in page
    copy = Message.objects.get(resent_from=sent)
    assert copy.arguments == sent.arguments
    assert copy.message_id_header != sent.message_id_header
    assert f'href="{page_of(copy)}"' in operator.get(page_of(sent)).content.decode()
    assert f'href="{page_of(sent)}"' in operator.get(page_of(copy)).content.decode()
    pipeline.deliver(copy.pk)
    assert [received.recipients for received in smtp.received] == [["ann@example.com"]] * 2
    sent.refresh_from_db()
    assert (sent.state, sent.attempts) == (State.SENT, 1)


def test_waiting_messages_can_be_cancelled(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user))

    assert "1 message cancelled" in act(operator, "cancel", message)
    message.refresh_from_db()
    assert (message.state, message.reason) == (State.CANCELLED, "cancelled by operator@example.com")


def test_a_paused_transport_is_probed_now(operator: Client) -> None:
    paused = Circuit.objects.create(transport="transport", paused_until=Now() + timedelta(hours=1))
    works = Circuit.objects.create(transport="second")
    data = {"action": "probe_now", "_selected_action": [paused.pk, works.pk]}

    page = operator.post(reverse("admin:mailer_circuit_changelist"), data, follow=True).content.decode()

    assert "A worker probes with the next message" in page
    assert list(Circuit.objects.filter(paused_until__lte=Now())) == [paused]


def test_those_who_may_only_look_probe_nothing(client: Client) -> None:
    viewer = User.objects.create_user("viewer@example.com", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_circuit"))
    client.force_login(viewer)
    paused = Circuit.objects.create(transport="transport", paused_until=Now() + timedelta(hours=1))

    client.post(reverse("admin:mailer_circuit_changelist"), {"action": "probe_now", "_selected_action": [paused.pk]})

    assert not Circuit.objects.filter(paused_until__lte=Now()).exists()


def test_the_probe_button_returns_to_the_page_where_it_was_pressed_and_is_kept(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user))
    paused = Circuit.objects.create(transport="transport", paused_until=Now() + timedelta(hours=1))
    probe = reverse("admin:mailer_probe_now", args=[paused.pk])

    response = operator.post(probe, {"next": page_of(message), "message": message.pk})

    assert response.headers["Location"] == page_of(message)
    assert Circuit.objects.filter(paused_until__lte=Now()).exists()
    for page in (
        reverse("admin:mailer_message_history", args=[message.pk]),
        reverse("admin:mailer_circuit_history", args=[paused.pk]),
    ):
        assert "Probe now" in operator.get(page).content.decode()


@pytest.mark.parametrize("page", ["logout", "no such page", "//evil.example", "https:evil.example", "\\\\evil.example"])
@pytest.mark.parametrize("number", ["", "9" * 5000, "9" * 30, "²"])
def test_what_nobody_sends_with_a_button_leads_to_the_front_page(operator: Client, page: str, number: str) -> None:
    paused = Circuit.objects.create(transport="transport", paused_until=Now() + timedelta(hours=1))

    answer = operator.post(reverse("admin:mailer_probe_now", args=[paused.pk]), {"next": page, "message": number})

    assert answer.headers["Location"] == "/admin/"


def test_a_probe_of_a_transport_that_works_changes_nothing(operator: Client) -> None:
    works = Circuit.objects.create(transport="transport")

    response = operator.post(reverse("admin:mailer_probe_now", args=[works.pk]), follow=True)

    assert "not paused any more" in response.content.decode()
    assert Circuit.objects.get().paused_until is None


@pytest.mark.parametrize("state", State)
def test_a_message_says_first_why_it_is_where_it_is(operator: Client, user: User, state: State) -> None:
    message = outbox.enqueue(Plain(user))
    lease = Now() + timedelta(hours=1) if state is State.SENDING else None
    Message.objects.update(state=state, reason="a reason", claimed_until=lease)
    message.refresh_from_db()

    page = operator.get(page_of(message)).content.decode()

    assert escape(explain(message, look()).sentence) in page
    assert page.index("mail-sentence") < page.index("field-state")


def test_a_message_says_when_something_happens_next(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user), delay=timedelta(days=1))

    page = operator.get(page_of(message)).content.decode()

    assert f"Next: {message.due_at:%Y-%m-%d %H:%M:%S} UTC." in page


def test_the_view_permission_does_not_allow_actions(client: Client, user: User) -> None:
    viewer = User.objects.create_user("viewer@example.com", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_message"))
    client.force_login(viewer)
    message = outbox.enqueue(Plain(user))

    assert client.get(page_of(message)).status_code == 200
    act(client, "cancel", message)
    message.refresh_from_db()
    assert message.state == State.QUEUED
    assert client.get(reverse("admin:mailer_message_send_test")).status_code == 403


def test_a_test_mail_redirects_to_its_message(operator: Client, smtp: Sink) -> None:
    page = operator.get(reverse("admin:mailer_message_send_test")).content.decode()
    assert 'value="operator@example.com"' in page

    response = operator.post(reverse("admin:mailer_message_send_test"), {"address": "bob@example.com"})

    message = Message.objects.get()
    assert response.headers["Location"] == page_of(message)
    pipeline.deliver(message.pk)
    assert smtp.received[0].recipients == ["bob@example.com"]
    assert "operator@example.com" in smtp.received[0].source.decode()


def test_an_invalid_address_for_a_test_mail_is_explained(operator: Client) -> None:
    response = operator.post(reverse("admin:mailer_message_send_test"), {"address": "bob"})

    assert "Enter a valid email address." in response.content.decode()
    assert Message.objects.count() == 0


def test_the_front_page_links_to_flower_and_to_waiting_or_failed_messages(operator: Client, settings: Settings) -> None:
    settings.FLOWER_URL = "http://localhost:5555"
    page = operator.get(reverse("admin:index")).content.decode()

    assert 'href="http://localhost:5555"' in page
    assert reverse("admin:mailer_message_send_test") in page
    link = reverse("admin:mailer_message_changelist") + "?state__in=retrying,held,failed"
    assert operator.get(link).status_code == 200


def test_anonymous_visitors_are_redirected_to_the_login(client: Client) -> None:
    for name in ("index", "mailer_message_changelist", "mailer_message_send_test"):
        assert client.get(reverse(f"admin:{name}")).status_code == 302


def test_a_user_is_created_with_an_address_and_found_by_it(operator: Client) -> None:
    data = {
        "email": "new@example.com",
        "usable_password": "true",
        "password1": "a long password 1",
        "password2": "a long password 1",
    }
    operator.post(reverse("admin:accounts_user_add"), data)

    assert User.objects.get(email="new@example.com").check_password("a long password 1")
    assert "new@example.com" in operator.get(reverse("admin:accounts_user_changelist") + "?q=new@").content.decode()


def test_an_attempt_in_progress_has_no_duration(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user))
    DeliveryAttempt.objects.create(message=message, number=1, transport="transport")

    assert "in progress" in operator.get(page_of(message)).content.decode()


def test_staff_who_may_change_users_cannot_become_or_take_over_an_administrator(client: Client) -> None:
    boss = User.objects.create_superuser("boss@example.com", "boss password 1")
    helper = User.objects.create_user("helper@example.com", is_staff=True)
    helper.user_permissions.set(Permission.objects.filter(codename__in=["change_user", "view_user"]))
    client.force_login(helper)

    own = {"email": helper.email, "language": "en", "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    client.post(reverse("admin:accounts_user_change", args=[helper.pk]), own)
    passwords = {"usable_password": "true", "password1": "taken over 1", "password2": "taken over 1"}
    taken = client.post(reverse("admin:auth_user_password_change", args=[boss.pk]), passwords)

    helper.refresh_from_db()
    boss.refresh_from_db()
    assert not helper.is_superuser
    assert taken.status_code == 403
    assert boss.check_password("boss password 1")


def test_an_address_changed_by_staff_is_canonical_and_unverified(operator: Client) -> None:
    user = User.objects.create_user("ann@example.com", email_verified_at=timezone.now())
    change = {"email": "New.Ann@Example.COM", "language": "en", "is_active": "on"}

    operator.post(reverse("admin:accounts_user_change", args=[user.pk]), change)

    user.refresh_from_db()
    assert (user.email, user.has_verified_email) == ("new.ann@example.com", False)


def test_a_too_long_address_for_a_test_mail_is_explained(operator: Client) -> None:
    response = operator.post(reverse("admin:mailer_message_send_test"), {"address": "a@" + "b" * 63 + ".c" * 120})

    assert "at most 254 characters" in response.content.decode()


def test_an_unsubscribed_address_is_listed_and_its_row_can_be_deleted(operator: Client) -> None:
    subscriptions.unsubscribe(Membership("ann@example.com", Stream("news", "News")))
    row = Suppression.objects.get()

    page = operator.get(reverse("admin:mailer_suppression_changelist"), {"stream": "news"}).content.decode()
    assert "ann@example.com" in page
    assert "unsubscribed from the stream" in page
    delete = reverse("admin:mailer_suppression_delete", args=[row.pk])
    assert "Why is mail to it allowed again?" in operator.post(delete, {"post": "yes"}, follow=True).content.decode()
    lift = reverse("admin:mailer_suppression_lift", args=[row.pk])
    assert "This field is required." in operator.post(lift, {"note": " "}).content.decode()
    assert Suppression.objects.exists()
    assert operator.post(lift, {"note": "She called."}).status_code == 302
    assert not Suppression.objects.exists()
    assert LogEntry.objects.get().get_change_message() == "Allow mail again: She called."


def test_an_address_added_by_an_operator_matches_in_any_case(operator: Client) -> None:
    form = {"address": "Ann@Example.com", "stream": "", "reason": "asked by phone"}

    assert operator.post(reverse("admin:mailer_suppression_add"), form).status_code == 302
    assert suppression.reason_for("ANN@example.com") == "asked by phone"
