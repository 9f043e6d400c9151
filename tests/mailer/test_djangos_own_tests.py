"""Django's own mail tests through the outbox. `make conformance` downloads and runs them.

They come from the source distribution of the installed Django version, whose folder is in DJANGO_SOURCE.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email import policy
from email.message import EmailMessage as PythonMessage
from email.message import MIMEPart
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.mail import EmailMessage, mailers
from django.core.mail.backends import locmem
from django.test import SimpleTestCase, TestCase, override_settings

from config.environment import email_url
from mailer.backend import OutboxBackend
from mailer.delivery import pipeline
from mailer.mime import serializer
from mailer.models import Message, State
from tests.smtp_sink import Sink

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

if "DJANGO_SOURCE" not in os.environ:
    pytest.skip("make conformance downloads them", allow_module_level=True)
sys.path.append(str(Path(os.environ["DJANGO_SOURCE"]) / "tests"))
from mail import test_backends as of_backends  # noqa: E402
from mail import tests as of_mail  # noqa: E402


class EmailBackend(OutboxBackend):
    """The name that Django's tests expect in messages."""


def deliver_everything() -> None:
    for message in Message.objects.waiting().order_by("pk"):
        pipeline.deliver(message.pk)
        message.refresh_from_db()
        assert message.state == State.SENT, message.reason


class TestBackend(of_backends.SharedEmailBackendTests, TestCase):
    """The tests of every Django backend, with a mail server."""

    backend_class = EmailBackend

    def setUp(self) -> None:
        super().setUp()
        self.sink = self.enterContext(Sink())
        self.mailers = {"transport": email_url(self.sink.url)}
        self.enterContext(override_settings(MAILERS=self.mailers))

    def get_mailbox_content(self) -> list[Any]:
        deliver_everything()
        sources = (
            received.source.replace(b"\r\n", b"\n") for received in self.sink.received
        )  # like Django's test server
        return [of_backends.message_from_bytes(source) for source in sources]

    def get_smtp_envelopes(self) -> list[dict[str, Any]]:
        deliver_everything()
        return [{"mail_from": received.sender, "rcpt_tos": received.recipients} for received in self.sink.received]

    def flush_mailbox(self) -> None:
        self.sink.received.clear()

    def test_create_from_mailers(self) -> None:
        """It needs a transport, as the SMTP backend needs a host."""
        custom = {"BACKEND": f"{__name__}.EmailBackend", "OPTIONS": {"transport": "transport"}}
        with self.settings(MAILERS={**self.mailers, "custom": custom}):
            backend = mailers["custom"]
        assert isinstance(backend, EmailBackend)
        assert backend.alias == "custom"

    # What holds for the SMTP backend, too. Of a local part that is not ASCII ours raises the same error, without the address.
    test_fail_silently_arg_accepted = of_backends.SMTPBackendTests.test_fail_silently_arg_accepted
    test_empty_list = of_backends.SMTPBackendTests.test_send_messages_with_empty_list_does_not_open_connection
    test_zero_sent = of_backends.SMTPBackendTests.test_send_messages_zero_sent
    test_invalid_addresses = of_backends.SMTPBackendTests.test_avoids_sending_to_invalid_addresses
    test_encodes_idna = of_backends.SMTPBackendTests.test_encodes_idna_in_smtp_commands
    test_does_not_reencode_idna = of_backends.SMTPBackendTests.test_does_not_reencode_idna


class Stored(SimpleTestCase):
    """Store and load each message before it is built."""

    def setUp(self) -> None:
        super().setUp()
        make, is_inside = EmailMessage.message, False

        def message(self: EmailMessage, *, policy: Any = policy.default) -> PythonMessage:
            nonlocal is_inside
            if is_inside:
                return make(self, policy=policy)
            is_inside = True
            try:
                copy = serializer.load(serializer.dump(self))
            finally:
                is_inside = False
            return make(copy, policy=policy)

        self.enterContext(mock.patch.object(EmailMessage, "message", message))
        # In Django the backends check addresses, and the tests build messages without any.
        self.enterContext(mock.patch.object(serializer, "_check_addresses"))


class TestMessages(Stored, of_mail.EmailMessageTestsWithMailers):
    @contextmanager
    def subTest(self, msg: Any = None, **params: Any) -> Iterator[None]:  # noqa: N802
        """Django encodes this domain by IDNA 2003. IDNA 2008 has no such domain, and ours refuses it."""
        is_refused = "exampl€.com" in str(params.get("address"))
        with pytest.raises(ValueError, match="5891") if is_refused else super().subTest(msg, **params):
            yield

    def test_decoded_attachment_text_MIMEPart(self) -> None:  # noqa: N802
        """Django's test compares identity; a stored part is only equal."""
        part = MIMEPart()
        part.set_content("content1")
        message = EmailMessage()
        message.attach(part)
        made: Any = message.message()
        assert made.get_payload()[0].as_bytes(policy=policy.SMTP) == part.as_bytes(policy=policy.SMTP)


@contextmanager
def outbox_before_memory() -> Iterator[None]:
    """Send mail for Django's in-memory mailbox through the outbox."""
    keep, is_delivering = locmem.EmailBackend.send_messages, False

    def send_messages(self: Any, messages: Sequence[EmailMessage]) -> int:
        nonlocal is_delivering
        if is_delivering:
            return keep(self, messages)
        sent = OutboxBackend(alias=self.alias, transport=self.alias).send_messages(messages)
        is_delivering = True
        try:
            deliver_everything()
        finally:
            is_delivering = False
        return sent

    with mock.patch.object(locmem.EmailBackend, "send_messages", send_messages):
        yield


class ThroughTheOutbox(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(outbox_before_memory())


class TestSendMail(ThroughTheOutbox, of_mail.SendMailTestsWithMailers):
    pass


class TestSendMassMail(ThroughTheOutbox, of_mail.SendMassMailTestsWithMailers):
    pass


class TestMailAdminsAndManagers(ThroughTheOutbox, of_mail.MailAdminsAndManagersTestsWithMailers):
    pass
