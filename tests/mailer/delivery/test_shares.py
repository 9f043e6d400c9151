"""A share of the default route takes the fallback first."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from accounts.models import User
from config.environment import email_url
from mailer import outbox
from mailer.delivery import circuit, shares
from mailer.models import Circuit, DeliveryAttempt, Message, State
from tests.mailer.kinds import Plain
from tests.mailer.worker import deliver
from tests.smtp_sink import Sink


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99, 100])
@pytest.mark.parametrize("first", [1, 10**6, 2**40])
@pytest.mark.parametrize("step", [1, 2, 3, 10, 100])
def test_of_ten_thousand_messages_the_share_is_right_within_one_percent(percent: int, first: int, step: int) -> None:
    """Also of every second message, if two kinds are enqueued in turn."""
    ids = range(first, first + 10_000 * step, step)

    assert sum(shares.is_in_share(number, percent) for number in ids) == pytest.approx(100 * percent, abs=100)


@pytest.fixture
def second(smtp: Sink, settings: Settings) -> Iterator[Sink]:
    """The fallback, which takes half of the mail first."""
    with Sink() as second:
        fallback = email_url(f"{second.url}/?weight=50")
        settings.MAILERS = {**settings.MAILERS, "fallback": fallback}
        yield second


def enqueue(user: User) -> tuple[Message, Message]:
    """Return a message that takes the transport first, and one that takes the fallback first."""
    messages = [outbox.enqueue(Plain(user)) for _ in range(4)]
    [usual, *_] = [message for message in messages if not shares.is_in_share(message.pk, 50)]
    [other, *_] = [message for message in messages if shares.is_in_share(message.pk, 50)]
    return usual, other


@pytest.mark.django_db
def test_a_share_takes_the_fallback_first(user: User, smtp: Sink, second: Sink) -> None:
    usual, other = enqueue(user)

    assert deliver(usual).state == deliver(other).state == State.SENT

    assert [len(smtp.received), len(second.received)] == [1, 1]
    assert other.delivery_attempts.get().transport == "fallback"


@pytest.mark.django_db
def test_each_takes_the_other_one_while_its_own_is_down(user: User, smtp: Sink, second: Sink) -> None:
    usual, other = enqueue(user)
    circuit.pause_by_person("fallback", "")
    assert deliver(other).state == State.SENT

    circuit.resume("fallback")
    circuit.pause_by_person("transport", "")
    assert deliver(usual).state == State.SENT

    assert other.delivery_attempts.get().transport == "transport"
    assert usual.delivery_attempts.get().transport == "fallback"


@pytest.mark.django_db
def test_a_retry_takes_the_same_transport(user: User, smtp: Sink, second: Sink) -> None:
    _, other = enqueue(user)
    second.script.always["RCPT"] = "451 4.2.1 later"
    for _ in range(3):
        deliver(other)

    assert set(DeliveryAttempt.objects.values_list("transport", flat=True)) == {"fallback"}
    assert not Circuit.objects.exclude(paused_until=None).exists()


@pytest.mark.django_db
def test_pinned_mail_has_no_share(user: User, smtp: Sink, second: Sink) -> None:
    pinned = [outbox.enqueue(Plain(user), using="transport") for _ in range(4)]

    assert {deliver(message).state for message in pinned} == {State.SENT}
    assert len(smtp.received) == 4
