"""A stream whose mail is reported as spam warns, and is paused before mailbox providers reject it."""

import itertools
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailer.delivery.pulse import health, look
from mailer.feedback import reputation
from mailer.models import DeliveryEvent, Message, State, StreamReputation, What

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
ids = itertools.count()


def mail(number: int, *, ago: timedelta = timedelta(hours=1), kind: str = "tests.Newsletter") -> list[Message]:
    """Make sent messages."""
    return Message.objects.bulk_create(
        Message(kind=kind, recipient=f"p{next(ids)}@example.com", state=State.SENT, settled_at=Now() - ago)
        for _ in range(number)
    )


def complain(*messages: Message, what: What = What.COMPLAINED) -> None:
    DeliveryEvent.objects.bulk_create(
        DeliveryEvent(source="Postmark", event_id=f"c-{next(ids)}", what=what, at=timezone.now(), message=each)
        for each in messages
    )


def news() -> StreamReputation:
    return StreamReputation.objects.get(stream="news")


def lines() -> list[str]:
    return [line.sentence for line in health(look()) if line.part == "Streams"]


@pytest.mark.parametrize(
    ("sent", "complaints", "is_high", "is_paused"),
    [
        (50, 1, False, False),
        (50, 3, False, False),  # too few to tell
        (50, 4, True, True),
        (1_200, 4, True, True),
        (1_500, 4, True, False),
        (4_000, 4, False, False),  # exactly 0.1 %
    ],
)
def test_a_stream_warns_above_one_share_and_is_paused_above_another(
    sent: int, complaints: int, is_high: bool, is_paused: bool
) -> None:
    complain(*mail(sent)[:complaints])
    reputation.judge()
    assert (reputation.is_high(news()), news().paused_since is not None) == (is_high, is_paused)
    assert len(lines()) == is_high


def test_the_words_of_a_warning_and_of_a_pause() -> None:
    complain(*mail(2_000)[:4])
    reputation.judge()
    assert lines() == [
        "Of the stream 'news', 0.2 % of the mail was reported as spam (4 of 2,000 in a day). "
        "Above 0.3 % it is paused, and Gmail rejects it."
    ]
    complain(*Message.objects.order_by("-pk")[:4])
    reputation.judge()
    [line] = lines()
    assert line.startswith("The stream 'news' is paused since 20")
    assert line.endswith(
        " UTC: 0.4 % of the mail was reported as spam (8 of 2,000 in a day). Resume it when the cause is found."
    )


def test_a_message_counts_once_and_other_reports_and_other_mail_count_not() -> None:
    messages = mail(10)
    for _ in range(5):
        complain(*messages[:3])
    complain(*messages, what=What.OPENED)
    complain(*mail(10, kind="tests.Plain"))
    complain(*mail(10, ago=DAY))
    reputation.judge()
    assert (news().complaints, news().rate, news().paused_since) == (3, None, None)


def test_one_person_who_reports_many_mails_pauses_no_stream() -> None:
    messages = mail(10)
    Message.objects.update(recipient="ann@example.com")
    complain(*messages)
    reputation.judge()
    assert (news().complaints, news().paused_since) == (1, None)


def test_the_warning_ends_when_the_mail_is_a_day_old() -> None:
    complain(*mail(2_000)[:4])
    reputation.judge()
    assert lines()
    Message.objects.update(settled_at=F("settled_at") - DAY)
    DeliveryEvent.objects.update(received_at=F("received_at") - DAY)
    reputation.judge()
    assert (lines(), news().complaints, news().sent) == ([], 0, 0)


def test_more_mail_without_reports_ends_the_warning_after_a_minute() -> None:
    complain(*mail(2_000)[:4])
    reputation.judge()
    mail(2_000)
    reputation.judge()
    assert lines()
    StreamReputation.objects.update(counted_at=Now() - reputation.AGAIN)
    reputation.judge()
    assert lines() == []


def test_after_a_resumption_only_later_mail_counts() -> None:
    complain(*(old := mail(100))[:4])
    reputation.judge()
    assert reputation.resume("news")
    complain(*old[4:10])  # about mail that was sent before: late, and the cause is found
    reputation.judge()
    assert (news().paused_since, news().complaints) == (None, 0)

    complain(*mail(100, ago=timedelta(0))[:4])
    reputation.judge()
    assert news().paused_since is not None
    assert (news().complaints, news().sent) == (4, 100)


def test_a_judgement_from_before_the_resumption_does_not_pause_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    complain(*mail(100)[:4])
    is_high = reputation.is_high

    def resume_meanwhile(row: StreamReputation, limit: float = reputation.WARNING) -> bool:
        if limit == reputation.LIMIT:
            reputation.pause("news", "")
            reputation.resume("news")
        return is_high(row, limit)

    monkeypatch.setattr(reputation, "is_high", resume_meanwhile)
    reputation.judge()
    assert news().paused_since is None


def test_a_person_pauses_a_stream_and_nothing_but_a_person_ends_it() -> None:
    reputation.pause("news", "wrong list.")
    complain(*mail(100)[:5])
    reputation.judge()
    [line] = lines()
    assert line.startswith("The stream 'news' has been paused by a person since 20")
    assert line.endswith(" UTC: wrong list. resume_stream continues it.")
    assert reputation.resume("news")
    assert not reputation.resume("news")
    assert lines() == []


def test_without_reports_it_costs_two_small_questions() -> None:
    mail(3)
    with CaptureQueriesContext(connection) as captured:
        reputation.judge()
    assert len(captured) == 3  # and the time
    assert not StreamReputation.objects.exists()
