"""The pages about kinds of mail."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import User
from mailer import outbox
from mailer.admin import kinds
from mailer.delivery import pipeline
from mailer.models import Message, State
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db

KINDS = "/admin/mailer/message/kinds/"
VERIFY = f"{KINDS}accounts.VerifyAddress/"


def page(client: Client, url: str, **query: str) -> str:
    return client.get(url, query).content.decode()


def test_every_kind_is_listed_in_words_with_its_numbers(operator: Client, user: User) -> None:
    messages = [outbox.enqueue(Plain(user)) for _ in range(4)]
    Message.objects.update(state=State.SENT, settled_at=Now() - timedelta(hours=1))
    Message.objects.filter(pk=messages[0].pk).update(state=State.FAILED)
    Message.objects.filter(pk=messages[1].pk).update(settled_at=Now() - timedelta(days=2))

    row = next(row for row in kinds._rows() if row.kind == "tests.Plain")

    assert (row.settled, row.failed, round(row.failure_rate)) == (3, 1, 33)
    assert row.last_sent is not None
    seen = page(operator, KINDS)
    assert "About a user, with a value." in seen
    assert "1, which is 33.3 %" in seen
    assert VERIFY in seen


def test_the_list_of_kinds_costs_two_queries(user: User) -> None:
    outbox.enqueue_many(Plain(user) for _ in range(20))

    with CaptureQueriesContext(connection) as seen:
        kinds._rows()

    assert len(seen) == 2


def test_a_kind_is_shown_in_each_language_with_its_size(operator: Client) -> None:
    english, thai = page(operator, VERIFY), page(operator, VERIFY, language="th")

    assert "Verify your e-mail address" in english
    assert "Verify your e-mail address" not in thai
    assert 'href="?language=th"' in english
    assert "Gmail hides what is after 102.0\xa0KB" in english
    assert english.count("<iframe") == 2
    assert 'lang="th"' in operator.get(f"{VERIFY}th/html/").content.decode()


def test_a_kind_that_has_no_preview_says_why(operator: Client) -> None:
    name = Plain.kind

    assert "There is no preview: NotImplementedError: Plain has no sample data" in page(operator, f"{KINDS}{name}/")
    assert "has no sample data" in page(operator, f"{KINDS}{name}/en/html/")


@pytest.mark.parametrize("path", ["no.Such/", "no.Such/en/html/", "accounts.VerifyAddress/xx/html/"])
def test_what_does_not_exist_is_not_found(operator: Client, path: str) -> None:
    assert operator.get(KINDS + path).status_code == 404


def test_an_operator_gets_the_sample_at_their_own_address(operator: Client, smtp: Sink) -> None:
    send = reverse("admin:mailer_message_send_sample", args=["accounts.VerifyAddress", "en"])

    answers = [operator.post(send, {"next": VERIFY}, follow=True).content.decode() for _ in range(2)]

    first, second = Message.objects.order_by("pk")
    assert f"The sample is on its way to operator@example.com as message {first.pk}." in answers[0]
    assert first.message_id_header != second.message_id_header
    pipeline.deliver(first.pk)
    assert smtp.received[0].recipients == ["operator@example.com"]
    assert "Ann Example" in smtp.received[0].source.decode()


def test_a_sample_that_cannot_be_built_is_not_sent(operator: Client) -> None:
    send = reverse("admin:mailer_message_send_sample", args=[Plain.kind, "en"])

    assert "It cannot be sent: NotImplementedError" in operator.post(send, follow=True).content.decode()
    assert not Message.objects.exists()
