"""What a transport said lately is evidence, and what it said about this message before above all."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from accounts.models import User
from mailer import outbox
from mailer.delivery.attribution import NOT_AGAIN, Fault
from mailer.delivery.circuit import Transport
from mailer.delivery.judge import LIMIT, judge
from mailer.models import DeliveryAttempt, Message, Outcome
from mailer.outcomes import PermanentRefusal, Phase
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db


def answer(message: Message, *, number: int, code: str, text: str, ago: int) -> None:
    DeliveryAttempt.objects.create(
        message=message,
        number=number,
        transport="transport",
        started_at=Now() - timedelta(seconds=ago + 1),
        finished_at=Now() - timedelta(seconds=ago),
        outcome=Outcome.ACCEPTED if code == "250" else Outcome.REFUSED_FOR_NOW,
        phase=Phase.RCPT,
        code=code,
        response=text,
    )


def test_a_busy_transport_does_not_make_a_message_forget_its_own_refusals(user: User) -> None:
    message, other = outbox.enqueue(Plain(user)), outbox.enqueue(Plain(user))
    refusal = PermanentRefusal("550", "not permitted", Phase.RCPT)
    answer(message, number=1, code="550", text=refusal.text, ago=60)
    for number in range(1, LIMIT + 20):
        answer(other, number=number, code="250", text="Ok", ago=30)

    found = judge(message, Transport("transport"), refusal)

    assert (found.fault, found.patience) == (Fault.MESSAGE, NOT_AGAIN)
