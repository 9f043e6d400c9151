"""Streams: the headers for mail clients, the unsubscribe link, and which mail unsubscribing stops."""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from copy import deepcopy
from email.policy import SMTP
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
from django.test.utils import override_settings
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer import outbox
from mailer.composing.message import build
from mailer.delivery import claim, pipeline, steps
from mailer.delivery import prepare as preparing
from mailer.email import Recipient, Stream
from mailer.models import Message, State, Suppression
from mailer.recipients import subscriptions
from mailer.recipients.subscriptions import BrokenLink, Membership
from tests.at_once import at_once
from tests.mailer.kinds import Plain
from tests.smtp_sink import Received, Sink

TIPS = Stream("tips", "Tips & tricks")
LONGEST = Stream("n" * 50, "With the longest name")
ANN = "ann@example.com"


class Tip(Plain):
    stream: ClassVar = TIPS


class ClassWithAVeryLongNameInAStreamWithTheLongestNameThatIsAllowedInHeaderFields(Plain):
    stream: ClassVar = LONGEST


class SharedTip(Tip):
    def cc(self) -> list[Recipient]:
        return [Recipient("bob@example.com")]


def deliver(message: Message) -> Message:
    Message.objects.filter(pk=message.pk).update(due_at=timezone.now())
    pipeline.deliver(message.pk)
    message.refresh_from_db()
    return message


def lines(received: Received) -> dict[str, str]:
    """Return the header fields as transmitted, unfolded."""
    head = received.source.partition(b"\r\n\r\n")[0].decode("ascii")
    return dict(line.partition(": ")[::2] for line in re.sub(r"\r\n(?=[ \t])", "", head).split("\r\n"))


@pytest.fixture
def receive(user: User, smtp: Sink) -> Callable[..., Received]:
    """Send a mail of this kind and return what the server received."""

    def receive(kind: type[Plain]) -> Received:
        assert deliver(outbox.enqueue(kind(user))).state == State.SENT
        return smtp.received[-1]

    return receive


@pytest.mark.django_db
def test_headers_name_the_stream_and_the_unsubscribe_link(receive: Callable[..., Received], settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "Shop <hello@shop.example>"

    received = receive(Tip)

    head, parsed = lines(received), received.parsed
    link = head["List-Unsubscribe"].removeprefix("<").removesuffix(">")
    assert head["List-Unsubscribe"] == f"<{link}>" == parsed["List-Unsubscribe"]
    assert subscriptions.read(urlsplit(link).path.split("/")[2]) == Membership(ANN, TIPS)
    assert head["List-Unsubscribe-Post"] == parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert head["List-ID"] == parsed["List-ID"] == "<tips.shop.example>"
    assert head["Feedback-ID"] == parsed["Feedback-ID"] == "tests.Tip:tips:shop.example"


@pytest.mark.django_db
def test_mail_without_a_stream_has_none_of_these_headers(receive: Callable[..., Received]) -> None:
    assert not {"List-Unsubscribe", "List-Unsubscribe-Post", "List-ID", "Feedback-ID"} & lines(receive(Plain)).keys()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "domain",
    [
        "bücher.example",
        "ส่งเมล.example",
        "t.co",
        f"{'a-long-label-' * 4}x.example",
        f"{'.'.join(['x' * 60] * 3)}.{'x' * 30}",
    ],
)
def test_headers_stay_valid_with_long_and_international_names(
    receive: Callable[..., Received], settings: Settings, domain: str
) -> None:
    settings.DEFAULT_FROM_EMAIL = f"hello@{domain}"
    User.objects.update(email=f"{'l' * 64}@{'.'.join(['d' * 60] * 3)}.test")

    received = receive(ClassWithAVeryLongNameInAStreamWithTheLongestNameThatIsAllowedInHeaderFields)

    head = lines(received)
    assert "=?" not in "".join(value for name, value in head.items() if name.startswith(("List-", "Feedback-")))
    assert max(map(len, received.source.split(b"\r\n"))) <= 998
    assert re.fullmatch(r"<http://localhost:8000/unsubscribe/[\w-]+/>", head["List-Unsubscribe"], re.ASCII)
    dot_atom = r"[a-z0-9-]+(\.[a-z0-9-]+)+"  # RFC 2919, 3
    assert re.fullmatch(rf"<{LONGEST.name}\.{dot_atom}>", head["List-ID"])
    kind, stream, sender = head["Feedback-ID"].split(":")
    assert (kind.partition(".")[0], stream) == ("tests", LONGEST.name)
    assert 5 <= len(sender) <= 15
    assert sender.isascii()
    assert re.fullmatch(rf"<\w+@{dot_atom}>", head["Message-ID"])


def test_two_long_domains_have_different_sender_ids_in_feedback_id(settings: Settings) -> None:
    names = set()
    for domain in ("newsletter.a.example", "newsletter.b.example"):
        settings.DEFAULT_FROM_EMAIL = f"hello@{domain}"
        names.add(build(Tip(User(pk=1, email=ANN)), "<1@x>").extra_headers["Feedback-ID"])

    assert len(names) == 2


def test_a_message_of_a_stream_can_be_deep_copied() -> None:  # as Django's in-memory backend does
    copy = deepcopy(build(Tip(User(pk=1, email=ANN)), "<1@x>"))

    assert b"\r\nList-Unsubscribe: <http" in copy.message(policy=SMTP).as_bytes()


@pytest.mark.django_db
def test_a_mail_in_a_stream_cannot_have_cc_or_bcc(user: User, smtp: Sink) -> None:
    message = deliver(outbox.enqueue(SharedTip(user)))

    assert (message.state, smtp.received) == (State.FAILED, [])
    assert "send a separate message instead of cc and bcc" in message.reason


def test_a_link_reveals_no_address_and_differs_each_time() -> None:
    first, second = (subscriptions.token("ann.example@example.com", TIPS) for _ in range(2))

    assert first != second
    for secret in (b"ann", b"example", b"tips"):
        assert secret not in urlsafe_b64decode(first + "==")
    assert subscriptions.read(first) == subscriptions.read(second) == Membership("ann.example@example.com", TIPS)


@pytest.mark.parametrize("address", ["ann@bücher.example", "o'hara+x@example.com", '"a b"@example.com', "ก@ข.example"])
def test_any_address_survives_the_link(address: str) -> None:
    assert subscriptions.read(subscriptions.token(address, TIPS)).address == address


def flipped(token: str) -> str:
    raw = bytearray(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[30] ^= 1
    return urlsafe_b64encode(bytes(raw)).decode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda token: token[:-1],
        lambda token: token[: len(token) // 2],
        lambda token: token[1:],
        lambda token: token.lower(),
        flipped,
        lambda token: f"{token}{token}",
        lambda token: "",
        lambda token: ">",
        lambda token: "a",
        lambda token: "AAAA",
        lambda token: "ก" * 20,
        lambda token: "A" * 100_000,
        lambda token: urlsafe_b64encode(json.dumps([ANN, "tips"]).encode()).decode(),
    ],
)
def test_a_forged_or_cut_link_is_broken(damage: Callable[[str], str]) -> None:
    with pytest.raises(BrokenLink):
        subscriptions.read(damage(subscriptions.token(ANN, TIPS)))


@pytest.mark.parametrize(
    "appended", [">", ".", "/>", "/.", "/", "=", "),", "%3E", "\u201d", " and more", "&amp;x=1", "?x"]
)
def test_characters_that_a_mail_client_appends_to_a_link_are_ignored(appended: str) -> None:
    assert subscriptions.read(subscriptions.token(ANN, TIPS) + appended) == Membership(ANN, TIPS)


def test_a_link_works_with_a_new_secret_key_while_the_old_one_is_a_fallback(settings: Settings) -> None:
    before = settings.SECRET_KEY
    token = subscriptions.token(ANN, TIPS)

    with override_settings(SECRET_KEY="another key " * 5, SECRET_KEY_FALLBACKS=["a third " * 7, before]):
        assert subscriptions.read(token) == Membership(ANN, TIPS)
        newer = subscriptions.token(ANN, TIPS)
    with pytest.raises(BrokenLink):
        subscriptions.read(newer)
    with override_settings(SECRET_KEY="another key " * 5), pytest.raises(BrokenLink):
        subscriptions.read(token)


def test_a_link_from_an_earlier_release_works(settings: Settings) -> None:
    settings.SECRET_KEY_FALLBACKS = ["a-key-of-long-ago"]

    link = "N89ldb_3nz_e8V939FV-cxRL0KjVSF-Nn8vh0QJm7qssSTMRStiCtabp0MkAMxcurK6U0TQv7CVQ0NengPWqh1yrdA"

    assert subscriptions.read(link) == Membership(ANN, TIPS)


def test_a_link_to_a_removed_stream_is_broken() -> None:
    with pytest.raises(BrokenLink):
        subscriptions.read(subscriptions.token(ANN, Stream("of-last-year", "Gone")))


@pytest.mark.django_db
def test_unsubscribing_stops_only_the_mail_of_that_stream(user: User, smtp: Sink) -> None:
    tip, other, plain = (outbox.enqueue(kind(user)) for kind in (Tip, OTHER, Plain))
    subscriptions.unsubscribe(Membership("Ann@Example.com", TIPS))

    assert [deliver(message).state for message in (tip, other, plain)] == [State.SUPPRESSED, State.SENT, State.SENT]
    assert tip.reason == "the address is suppressed: unsubscribed from the stream 'tips'"
    assert tip.attempts == 0
    assert len(smtp.received) == 2


@pytest.mark.django_db
def test_unsubscribing_stops_a_mail_that_is_already_composed(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Tip(user))
    prepared = preparing.prepare(message)
    assert isinstance(prepared, steps.Ready)

    subscriptions.unsubscribe(Membership(ANN, TIPS))

    assert not claim.claim_row(message, prepared)


@pytest.mark.django_db
def test_an_address_that_does_not_exist_gets_no_mail_of_a_stream(user: User, smtp: Sink) -> None:
    Suppression.objects.create(address=ANN, reason="550 5.1.1 no such user")

    assert deliver(outbox.enqueue(Tip(user))).reason == "the address is suppressed: 550 5.1.1 no such user"
    assert smtp.received == []


@pytest.mark.django_db
def test_retry_and_resend_by_an_operator_stay_suppressed(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Tip(user))
    Message.objects.update(state=State.FAILED)
    subscriptions.unsubscribe(Membership(ANN, TIPS))

    outbox.retry(Message.objects.all(), reason="sent again")

    assert deliver(message).state == State.SUPPRESSED
    assert deliver(outbox.resend(message)).state == State.SUPPRESSED


OTHER: Any = ClassWithAVeryLongNameInAStreamWithTheLongestNameThatIsAllowedInHeaderFields


@pytest.mark.django_db
def test_resubscribing_allows_the_stream_again(user: User, smtp: Sink) -> None:
    subscriptions.unsubscribe(Membership(ANN, TIPS))
    subscriptions.resubscribe(Membership(ANN, TIPS))

    assert deliver(outbox.enqueue(Tip(user))).state == State.SENT


@pytest.mark.django_db
def test_resubscribing_keeps_the_suppression_of_an_address_that_does_not_exist(user: User, smtp: Sink) -> None:
    Suppression.objects.create(address=ANN, reason="550 5.1.1 no such user")
    subscriptions.unsubscribe(Membership(ANN, TIPS))
    subscriptions.resubscribe(Membership(ANN, TIPS))

    assert not subscriptions.is_unsubscribed(Membership(ANN, TIPS))
    assert deliver(outbox.enqueue(Plain(user))).state == State.SUPPRESSED


@pytest.mark.django_db(transaction=True)
def test_concurrent_unsubscribes_make_one_row() -> None:
    membership = Membership(ANN, TIPS)

    _, failures = at_once([lambda: subscriptions.unsubscribe(membership)] * 12)

    assert (failures, Suppression.objects.count()) == ([], 1)
    for _time in range(5):
        _, failures = at_once(
            [lambda: subscriptions.resubscribe(membership), lambda: subscriptions.unsubscribe(membership)] * 6
        )
        assert failures == []
        assert Suppression.objects.count() <= 1


@pytest.mark.django_db
def test_unsubscribes_are_copied_to_a_new_address() -> None:
    subscriptions.unsubscribe(Membership(ANN, TIPS))
    Suppression.objects.create(address=ANN, reason="550")

    subscriptions.copy_unsubscribes(ANN, "ann@new.example")

    copied = Suppression.objects.filter(address="ann@new.example")
    assert list(copied.values_list("stream", flat=True)) == ["tips"]  # not the suppression of the old address itself
    subscriptions.copy_unsubscribes("Ann@New.Example", ANN)
    assert Suppression.objects.filter(address=ANN).exclude(stream="").count() == 1


@pytest.mark.parametrize("name", ["", "a" * 51, "a.b", "a b", "é", "-a", "a\n"])
def test_a_stream_needs_a_name_that_is_valid_in_a_header(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        Stream(name, "Label")
