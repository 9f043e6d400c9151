"""The number of statements that a delivery costs."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline
from mailer.models import Message, State
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_delivered_message_costs_four_short_statements_and_its_own(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user))

    with CaptureQueriesContext(connection) as captured:
        pipeline.deliver(message.pk)

    statements = [query["sql"].split()[0] for query in captured.captured_queries]
    # Load, the e-mail's own user, claim together with its attempt; then the attempt's outcome and the message's state.
    assert statements == ["SELECT", "SELECT", "WITH", "BEGIN", "UPDATE", "UPDATE", "COMMIT"]
    assert Message.objects.get().state == State.SENT
