"""The list of all mail, the search, and the page of a person."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.admin import all_mail
from mailer.models import DeliveryAttempt, Message, State, Suppression
from mailer.recipients.suppression import suppress
from tests.mailer.kinds import Bulletin, Plain

pytestmark = pytest.mark.django_db

LIST = "/admin/mailer/message/"
PERSON = "/admin/mailer/message/person/"


def page(client: Client, url: str = LIST, **query: str) -> str:
    return client.get(url, query).content.decode()


def listed(client: Client, **query: str) -> set[int]:
    return {message.pk for message in client.get(LIST, query).context["cl"].result_list}


def test_the_chips_show_what_they_say(operator: Client, user: User) -> None:
    messages = {state: outbox.enqueue(Plain(user)) for state in State}
    for state, message in messages.items():
        lease = Now() + timedelta(hours=1) if state is State.SENDING else None
        Message.objects.filter(pk=message.pk).update(state=state, claimed_until=lease)

    pks = {state: message.pk for state, message in messages.items()}
    assert listed(operator, show="waiting") == {pks[State.QUEUED], pks[State.RETRYING], pks[State.SENDING]}
    assert listed(operator, show="failed") == {pks[State.FAILED]}
    assert listed(operator, show="held") == {pks[State.HELD]}
    assert listed(operator, show="sent") == {pks[State.SENT]}
    assert listed(operator) == set(pks.values())


def test_each_message_has_its_sentence(operator: Client, user: User) -> None:
    outbox.enqueue(Plain(user))

    assert '<span class="mail-level waiting">No worker is running;' in page(operator)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({}, "No message was asked for yet."),
        ({"show": "waiting"}, "No message waits."),
        ({"show": "failed"}, "No message failed."),
        ({"show": "held"}, "No message is held: none waits for a person."),
        ({"show": "sent"}, "No message was sent yet."),
        ({"show": "sent", "queue__exact": "bulk"}, "No message matches these filters."),
        ({"q": "zoe"}, "Nothing is known of “zoe”"),
    ],
)
def test_an_empty_list_says_what_it_means(operator: Client, query: dict[str, str], words: str) -> None:
    assert words in page(operator, **query)


def test_the_list_costs_the_same_for_any_number_of_messages(operator: Client, user: User) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as seen:
            page(operator, show="waiting")
        return len(seen)

    outbox.enqueue(Plain(user))
    few = queries()
    outbox.enqueue_many(Plain(user) for _ in range(30))
    now = timezone.now()
    attempts = [
        DeliveryAttempt(message=message, number=number, transport="t", started_at=now)
        for message in Message.objects.all()
        for number in (1, 2)
    ]
    DeliveryAttempt.objects.bulk_create(attempts)

    assert queries() == few


def test_the_list_counts_no_further_than_its_limit(
    operator: Client, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_mail, "COUNTED", 3)
    outbox.enqueue_many(Plain(user) for _ in range(5))

    seen = operator.get(LIST)

    assert seen.context["cl"].result_count == 3
    assert "There are more: search for older ones." in seen.content.decode()


def test_an_action_on_all_is_about_no_more_messages_than_were_counted(
    operator: Client, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_mail, "COUNTED", 3)
    outbox.enqueue_many(Plain(user) for _ in range(5))
    data = {"action": "cancel", "select_across": "1", "_selected_action": [Message.objects.first().pk]}  # type: ignore[union-attr]

    assert "3 messages cancelled." in operator.post(LIST, data, follow=True).content.decode()


def test_the_kind_is_filtered_by_the_kinds_of_this_release(operator: Client, user: User) -> None:
    outbox.enqueue(Plain(user))
    bulletin = outbox.enqueue(Bulletin(user))

    assert listed(operator, kind="tests.Bulletin") == {bulletin.pk}
    assert "tests.Bulletin" in page(operator)


@pytest.mark.parametrize("text", ["{pk}", "#{pk}", "ANN@example.com", "{bare}", "<{bare}>", "nn@exam"])
def test_a_search_with_one_hit_leads_to_its_message(operator: Client, user: User, text: str) -> None:
    message = outbox.enqueue(Plain(user))
    text = text.format(pk=message.pk, bare=message.message_id_header.strip("<>"))

    found = operator.get(LIST, {"q": text})

    assert found.headers["Location"] == reverse("admin:mailer_message_change", args=[message.pk])


def test_a_search_with_several_mails_of_one_person_leads_to_the_person(operator: Client, user: User) -> None:
    outbox.enqueue_many(Plain(user) for _ in range(2))

    assert operator.get(LIST, {"q": "ann"}).headers["Location"] == f"{PERSON}?q=ann%40example.com"


def test_a_search_with_several_persons_lists_their_mail_and_links_to_each(operator: Client, user: User) -> None:
    outbox.enqueue(Plain(user))
    outbox.enqueue(Plain(User.objects.create_user("anna@example.com")))

    seen = page(operator, q="ann")

    assert len(listed(operator, q="ann")) == 2
    for address in ("ann", "anna"):
        assert f'href="{PERSON}?q={address}%40example.com"' in seen


@pytest.mark.parametrize("text", ["9" * 40, "9" * 5000, "%", "²", " ", "<>", "a" * 5000])
@pytest.mark.parametrize("url", [LIST, PERSON])
def test_odd_searches_find_nothing_and_are_no_error(operator: Client, url: str, text: str) -> None:
    assert operator.get(url, {"q": text}).status_code in (200, 302)


def test_those_who_may_not_look_are_led_to_no_message(client: Client, user: User) -> None:
    outbox.enqueue(Plain(user))
    client.force_login(User.objects.create_user("staff@example.com", is_staff=True))

    assert client.get(LIST, {"q": "ann@example.com"}).status_code == 403


def test_the_person_has_account_mail_and_buttons(operator: Client, user: User) -> None:
    message = outbox.enqueue(Plain(user))
    Message.objects.update(state=State.FAILED, reason="refused")

    seen = page(operator, PERSON, q="Ann@Example.com")

    assert f'href="{reverse("admin:accounts_user_change", args=[user.pk])}"' in seen
    assert "<strong>not verified</strong>" in seen
    assert "Yes: the address is not suppressed." in seen
    assert "Failed: refused." in seen
    assert f'action="{reverse("admin:mailer_message_change", args=[message.pk])}"' in seen
    assert ">Retry</button>" in seen


def test_a_suppressed_address_is_allowed_mail_again_from_its_page(operator: Client) -> None:
    suppress("gone@example.com", "550 no such user")
    row = Suppression.objects.get()

    seen = page(operator, PERSON, q="gone@example.com")
    assert "because: 550 no such user" in seen
    assert "No mail to gone@example.com is on record." in seen
    lift = reverse("admin:mailer_suppression_lift", args=[row.pk])
    assert f'action="{lift}"' in seen

    where = {"next": f"{PERSON}?q=gone@example.com"}
    assert "no mail at all since" in operator.post(lift, where).content.decode()
    answer = operator.post(lift, {**where, "note": "She called."}, follow=True).content.decode()

    assert "To gone@example.com, mail is sent again." in answer
    assert not Suppression.objects.exists()
    assert "not suppressed any more" in operator.post(lift, follow=True).content.decode()


def test_the_account_is_no_link_for_those_who_may_not_see_it(client: Client, user: User) -> None:
    viewer = User.objects.create_user("viewer@example.com", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_message"))
    client.force_login(viewer)
    outbox.enqueue(Plain(user))

    seen = page(client, PERSON, q="ann@example.com")

    assert "not verified" in seen
    assert "/accounts/user/" not in seen
    assert 'class="button' not in seen.partition("mail-list")[2]


def test_a_part_that_several_addresses_have_names_each(operator: Client) -> None:
    User.objects.create_user("ann@example.com")
    User.objects.create_user("anna@example.com")

    seen = page(operator, PERSON, q="ann")

    assert "Several addresses match:" in seen
    assert 'href="?q=anna%40example.com"' in seen


def test_the_page_of_a_person_says_how_far_back_a_part_is_looked_for(operator: Client) -> None:
    assert "only in the newest 500,000" in page(operator, PERSON, q="zzqq")
    assert "only in the newest" not in page(operator, PERSON, q="gone@example.com")
