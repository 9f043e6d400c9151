"""The address for bounces names its message, and nobody can make one for another message."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from mailer import outbox
from mailer.conf import LONGEST_BOUNCE_LOCAL, parse
from mailer.transports import verp
from tests.mailer.kinds import Plain
from tests.mailer.worker import deliver_now as deliver
from tests.smtp_sink import Sink

HERE = override_settings(POSTCOMMIT={"BOUNCE_ADDRESS": "bounces@postcommit.example"})
NUMBERS = st.integers(1, 2**63 - 1)


@HERE
@given(NUMBERS, st.sampled_from([str, str.upper, str.title]))
def test_a_bounce_names_its_message_in_any_case(number: int, spelt: type[str]) -> None:
    address = verp.envelope_sender(number)
    assert address.endswith("@postcommit.example")
    assert len(address.partition("@")[0]) <= 64
    assert verp.message_of(spelt(address)) == number
    assert verp.message_of(f"Bounces <{address}>") == number


@HERE
@given(NUMBERS, NUMBERS, st.text(max_size=80))
def test_no_other_address_names_a_message(number: int, other: int, text: str) -> None:
    signature = verp.token(number).partition("-")[2]
    for forged in (f"bounces+{other}-{signature}@postcommit.example", f"bounces+{text}@postcommit.example", text):
        assert verp.message_of(forged) in (None, number if other == number else None)


def test_a_new_key_reads_the_tokens_of_the_old_one_until_it_is_removed() -> None:
    with override_settings(SECRET_KEY="old"):
        token = verp.token(7)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        assert verp.read(token) == 7
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[]):
        assert verp.read(token) is None


@pytest.mark.django_db
def test_a_mail_leaves_with_the_address_for_its_own_bounces(user: User, smtp: Sink) -> None:
    first, second = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    with HERE:
        deliver(first)
        deliver(second)
    assert [verp.message_of(received.sender) for received in smtp.received] == [first.pk, second.pk]
    assert all("bounces" not in received.source.decode() for received in smtp.received)


@pytest.mark.django_db
def test_without_the_setting_the_sender_of_the_mail_gets_the_bounces(user: User, smtp: Sink) -> None:
    deliver(outbox.enqueue(Plain(user)))
    assert smtp.received[0].sender in smtp.received[0].parsed["From"]


@pytest.mark.parametrize("local", ["b" * (LONGEST_BOUNCE_LOCAL + 1), "bücher", '"a b"'])
def test_an_address_that_leaves_no_room_for_the_token_is_refused(local: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="POSTCOMMIT_BOUNCE_ADDRESS must"):
        parse({"BOUNCE_ADDRESS": f"{local}@postcommit.example"})
