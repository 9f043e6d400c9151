"""What the receiving side reports is applied to the right message, whatever the order, and only to the right address."""

import dataclasses
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.core.mail import send_mail
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.delivery import retention, sweep
from mailer.email import Stream
from mailer.feedback import events
from mailer.feedback.report import Report
from mailer.models import (
    ALL_STREAMS,
    ERASED,
    Bounce,
    Cause,
    DeliveryAttempt,
    DeliveryEvent,
    Message,
    Payload,
    State,
    Suppression,
    What,
)
from mailer.recipients import suppression
from tests.mailer.kinds import Plain, Shared
from tests.mailer.worker import deliver_now as deliver
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db

POSTMARK = {"BACKEND": "anymail.backends.postmark.EmailBackend", "OPTIONS": {"server_token": "t"}}
ids = itertools.count()


class NewsOfEvents(Plain):
    stream: ClassVar = Stream("news-of-events", "Digest")


def report(what: What = What.BOUNCED, **fields: Any) -> Report:
    return Report(f"event-{next(ids)}", what, timezone.now(), **fields)


def say(*reports: Report, source: str = events.BOUNCE_MAIL) -> None:
    events.store(source, reports)
    events.apply_due()


def sent(user: User, kind: Callable[[User], Any] = Plain) -> Message:
    message = deliver(outbox.enqueue(kind(user)))
    assert message.state == State.SENT
    return message


def causes() -> list[tuple[str, str, str]]:
    return list(Suppression.objects.order_by("pk").values_list("address", "cause", "stream"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bounce": Bounce.HARD}, [("ann@example.com", Cause.BOUNCE, "")]),
        ({"bounce": Bounce.SOFT}, []),
        ({"bounce": Bounce.POLICY}, []),
        ({"what": What.DELAYED, "bounce": Bounce.HARD}, []),
        ({"what": What.DELIVERED}, []),
        ({"what": What.OPENED}, []),
        ({"what": What.DROPPED, "bounce": Bounce.HARD}, [("ann@example.com", Cause.BOUNCE, "")]),
        ({"what": What.DROPPED}, []),
        ({"what": What.COMPLAINED}, [("ann@example.com", Cause.COMPLAINT, "")]),
        ({"what": What.COMPLAINED, "recipient": ""}, [("ann@example.com", Cause.COMPLAINT, "")]),
        ({"what": What.UNSUBSCRIBED}, [("ann@example.com", Cause.UNSUBSCRIBE, ALL_STREAMS)]),
        ({"bounce": Bounce.HARD, "recipient": "ANN@Example.COM."}, [("ann@example.com", Cause.BOUNCE, "")]),
        ({"bounce": Bounce.HARD, "recipient": "ann@mailbox.example"}, []),  # it was forwarded, and that one is unknown
        (
            {"bounce": Bounce.HARD, "recipient": "x@mailbox.example", "original_recipient": "ann@example.com"},
            [("ann@example.com", Cause.BOUNCE, "")],
        ),
    ],
)
def test_what_a_report_does_to_the_address(
    user: User, smtp: Sink, fields: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    message = sent(user)
    say(report(**{"recipient": "ann@example.com", "message": message.pk, **fields}))
    assert causes() == expected
    message.refresh_from_db()
    assert message.state == State.SENT
    assert message.events.get().apply_at is None


def test_a_security_mail_passes_an_unsubscribe_and_never_a_complaint(user: User, smtp: Sink) -> None:
    say(report(What.UNSUBSCRIBED, message=sent(user).pk))
    assert deliver(outbox.enqueue(NewsOfEvents(user))).state == State.SUPPRESSED
    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT

    say(report(What.COMPLAINED, message=Message.objects.filter(state=State.SENT)[0].pk))
    assert deliver(outbox.enqueue(Plain(user))).state == State.SUPPRESSED


def test_an_unsubscribe_at_the_provider_is_of_the_stream_of_the_mail(user: User, smtp: Sink) -> None:
    say(report(What.UNSUBSCRIBED, message=sent(user, NewsOfEvents).pk))
    assert causes() == [("ann@example.com", Cause.UNSUBSCRIBE, "news-of-events")]


def test_mail_that_comes_back_again_and_again_stops_unless_one_was_delivered(user: User, smtp: Sink) -> None:
    def bounce(times: int) -> None:
        for _ in range(times):
            message = sent(user)
            for _ in range(2):  # one mail counts once
                say(report(bounce=Bounce.SOFT, recipient=user.email, message=message.pk))

    bounce(events.SOFT_BOUNCES - 1)
    say(report(What.DELIVERED, message=Message.objects.latest("pk").pk))
    bounce(events.SOFT_BOUNCES - 1)
    assert causes() == []
    bounce(1)
    assert causes() == [(user.email, Cause.BOUNCES, "")]


def test_old_soft_bounces_count_no_more(user: User, smtp: Sink) -> None:
    for _ in range(events.SOFT_BOUNCES):
        DeliveryEvent.objects.update(at=F("at") - events.SOFT_WINDOW)
        say(report(bounce=Bounce.SOFT, recipient=user.email, message=sent(user).pk))
    assert causes() == []


def test_a_report_that_comes_twice_is_one(user: User, smtp: Sink) -> None:
    message = sent(user)
    again = report(bounce=Bounce.HARD, recipient=user.email, message=message.pk)
    say(again, again)
    say(again)
    Suppression.objects.all().delete()
    say(again)
    assert message.events.count() == 1
    assert causes() == []  # lifted meanwhile: the old report does not bring it back


def test_a_report_that_comes_before_the_answer_of_its_own_attempt_waits_for_it(
    user: User, smtp: Sink, settings: Settings
) -> None:
    message = sent(user)
    settings.MAILERS = {**settings.MAILERS, "transport": POSTMARK}
    early = report(What.DELIVERED, recipient=user.email, provider_id="abc-1")
    say(early, source="Postmark")
    assert not message.events.exists()

    DeliveryAttempt.objects.update(response="provider's message id abc-1")
    DeliveryEvent.objects.update(apply_at=Now())
    sweep.sweep()
    assert message.events.get().what == What.DELIVERED


def test_a_mail_is_found_by_the_providers_id_if_the_provider_replaced_the_message_id(
    user: User, smtp: Sink, settings: Settings
) -> None:
    message = sent(user)
    settings.MAILERS = {**settings.MAILERS, "transport": POSTMARK}
    DeliveryAttempt.objects.update(response="provider's message id abc-1")
    say(report(What.DELIVERED, message_id="<its own@postmark>", provider_id="abc-1"), source="Postmark")
    assert message.events.get().what == What.DELIVERED


def test_a_report_about_nobodys_mail_is_given_up_and_stops_no_other(user: User, smtp: Sink) -> None:
    strange = report(bounce=Bounce.HARD, recipient="eve@example.com", message_id="<unknown@example.com>")
    say(strange, report(What.DELIVERED, message=sent(user).pk))
    assert DeliveryEvent.objects.filter(message=None).get().apply_at is not None
    DeliveryEvent.objects.filter(message=None).update(received_at=Now() - events.PATIENCE, apply_at=Now())
    events.apply_due()
    assert DeliveryEvent.objects.filter(message=None).get().apply_at is None
    assert causes() == []


def test_a_report_that_names_no_mail_is_not_looked_at_again() -> None:
    say(report(bounce=Bounce.HARD, recipient="eve@example.com"))
    assert DeliveryEvent.objects.get().apply_at is None


def test_a_provider_says_nothing_about_mail_that_went_another_way(user: User, smtp: Sink, settings: Settings) -> None:
    message = sent(user)
    settings.MAILERS = {**settings.MAILERS, "fallback": POSTMARK}
    say(report(bounce=Bounce.HARD, recipient=user.email, message=message.pk), source="Postmark")
    say(report(bounce=Bounce.HARD, recipient=user.email, message=message.pk), source="SendGrid")
    assert causes() == []

    DeliveryAttempt.objects.update(transport="fallback")
    say(report(bounce=Bounce.HARD, recipient=user.email, message=message.pk), source="Postmark")
    assert causes() == [(user.email, Cause.BOUNCE, "")]


@pytest.mark.parametrize("what", [What.BOUNCED, What.COMPLAINED])
def test_a_provider_that_repeats_what_a_stranger_wrote_names_only_whom_we_wrote_to(
    user: User, smtp: Sink, settings: Settings, what: What
) -> None:
    """Amazon SES has the address of a bounce from the bounce itself: whoever forwards a mail writes it."""
    message = sent(user)
    settings.MAILERS = {**settings.MAILERS, "transport": POSTMARK}
    say(report(what, bounce=Bounce.HARD, recipient="victim@example.com", message=message.pk), source="Postmark")
    assert causes() == []
    say(report(what, bounce=Bounce.HARD, recipient="Ann@Example.com", message=message.pk), source="Postmark")
    assert [address for address, *_ in causes()] == [user.email]


def test_a_message_that_no_server_took_has_no_bounce(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))
    say(report(bounce=Bounce.HARD, recipient=user.email, message=message.pk))
    assert causes() == []


def test_of_several_recipients_one_is_suppressed(user: User, smtp: Sink) -> None:
    message = deliver(outbox.enqueue(Shared(user, copies=["bob@example.com"], hidden=["cid@example.com"])))
    say(report(bounce=Bounce.HARD, recipient="cid@example.com", message=message.pk))
    say(report(What.COMPLAINED, message=message.pk))  # it hides whose complaint it is
    assert causes() == [("cid@example.com", Cause.BOUNCE, "")]


def test_a_mail_of_djangos_own_is_found_by_its_message_id(smtp: Sink) -> None:
    send_mail("Hello", "Text", None, ["Ann@Example.com", "bob@example.com"])
    message = deliver(Message.objects.get())
    say(report(bounce=Bounce.HARD, recipient="BOB@example.com", message_id=message.message_id_header))
    assert causes() == [("bob@example.com", Cause.BOUNCE, "")]


def test_a_test_system_suppresses_only_whom_it_really_wrote_to(user: User, smtp: Sink, settings: Settings) -> None:
    settings.POSTCOMMIT = {"REDIRECT_ALL_TO": "qa@example.com"}
    message = sent(user)
    say(report(bounce=Bounce.HARD, recipient=user.email, message=message.pk))
    assert causes() == []


def test_an_erased_person_does_not_come_back_with_a_late_report(user: User, smtp: Sink) -> None:
    message = sent(user)
    Message.objects.filter(pk=message.pk).update(recipient="", arguments=ERASED)
    say(report(bounce=Bounce.SOFT, recipient=user.email, text="550 ann@example.com", message=message.pk))
    assert message.events.values_list("recipient", "original_recipient", "text").get() == ("", "", "")


def test_an_erased_person_is_not_suppressed_by_name_either(user: User, smtp: Sink, settings: Settings) -> None:
    message = sent(user)
    settings.MAILERS = {**settings.MAILERS, "transport": POSTMARK}
    Message.objects.filter(pk=message.pk).update(recipient="", arguments=ERASED)
    say(report(What.COMPLAINED, recipient=user.email, message=message.pk), source="Postmark")
    assert message.events.get().what == What.COMPLAINED
    assert causes() == []


def test_a_complaint_without_a_name_is_nobodys_when_the_other_recipients_are_not_known_any_more(smtp: Sink) -> None:
    send_mail("Hello", "Text", None, ["ann@example.com", "bob@example.com"])
    message = deliver(Message.objects.get())
    Payload.objects.all().delete()
    say(report(What.COMPLAINED, message=message.pk))
    assert causes() == []
    say(report(What.COMPLAINED, recipient="ann@example.com", message=message.pk))
    assert causes() == [("ann@example.com", Cause.COMPLAINT, "")]


def test_a_soft_bounce_of_one_recipient_counts_for_no_other(user: User, smtp: Sink) -> None:
    for _ in range(events.SOFT_BOUNCES):
        message = deliver(outbox.enqueue(Shared(user, copies=["bob@example.com"])))
        say(report(bounce=Bounce.SOFT, recipient="bob@example.com", message=message.pk))
    say(report(bounce=Bounce.SOFT, recipient=user.email, message=message.pk))
    assert user.email not in [address for address, *_ in causes()]


def test_a_delivery_to_one_recipient_excuses_no_other(user: User, smtp: Sink) -> None:
    for _ in range(events.SOFT_BOUNCES):
        message = deliver(outbox.enqueue(Shared(user, copies=["bob@example.com"])))
        say(report(bounce=Bounce.SOFT, recipient=user.email, message=message.pk))
        say(report(What.DELIVERED, recipient="bob@example.com", message=message.pk))
    assert causes() == [(user.email, Cause.BOUNCES, "")]


def test_a_report_that_breaks_the_code_stops_no_other(user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    find = events._message_of

    def break_once(event: DeliveryEvent) -> Message | None:
        return find(event) if event.what == What.DELIVERED else 1 // 0  # type: ignore[return-value]

    monkeypatch.setattr(events, "_message_of", break_once)
    message = sent(user)
    say(report(What.OPENED, message=message.pk), report(What.DELIVERED, message=message.pk))
    assert list(message.events.values_list("what", flat=True)) == [What.DELIVERED]


def test_a_pile_of_reports_is_applied_in_turns(user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a part of the sweep, which must look after the mail of dead workers too."""
    monkeypatch.setattr(events, "BATCH", 1)
    monkeypatch.setattr(events, "MOST", 2)
    message = sent(user)
    events.store(events.BOUNCE_MAIL, [report(What.OPENED, message=message.pk) for _ in range(3)])
    assert [events.apply_due() for _ in range(3)] == [2, 1, 0]


def test_who_reports_again_and_again_makes_no_page_slow(
    user: User, smtp: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_OF_A_MAIL", 2)
    message = sent(user)
    say(*[report(recipient=f"{n}@example.org", message=message.pk) for n in range(3)])
    assert message.events.count() == 2
    assert not DeliveryEvent.objects.exclude(apply_at=None).exists()


@pytest.mark.parametrize("wrong", [timedelta(hours=20), timedelta(days=-900)])
def test_a_report_from_the_future_or_from_before_the_mail_is_of_now(user: User, smtp: Sink, wrong: timedelta) -> None:
    message = sent(user)
    say(dataclasses.replace(report(message=message.pk), at=timezone.now() + wrong))
    assert message.created_at <= DeliveryEvent.objects.get().at <= timezone.now()


def test_texts_of_any_kind_and_length_can_be_stored(user: User, smtp: Sink) -> None:
    long = "550 <ann@example.com> \0 \ud800 " + "x" * 100_000
    say(report(recipient=long, original_recipient=long, code=long, text=long, message_id=long, message=sent(user).pk))
    assert "ann@" not in DeliveryEvent.objects.get().text


def test_a_lifted_address_gets_mail_again(user: User, smtp: Sink) -> None:
    suppression.suppress(user.email, "550", cause=Cause.COMPLAINT)
    assert deliver(outbox.enqueue(Plain(user))).state == State.SUPPRESSED
    Suppression.objects.all().delete()
    assert deliver(outbox.enqueue(Plain(user))).state == State.SENT


def test_reports_of_nobody_are_purged_with_the_retention(settings: Settings) -> None:
    settings.POSTCOMMIT = {"RETENTION_DAYS": "5"}
    events.store(events.BOUNCE_MAIL, [report()])
    DeliveryEvent.objects.update(received_at=Now() - timedelta(days=4), apply_at=None)
    retention.purge()
    assert DeliveryEvent.objects.exists()
    DeliveryEvent.objects.update(received_at=Now() - timedelta(days=6))
    retention.purge()
    assert not DeliveryEvent.objects.exists()
