"""A message that Django built, as a kind of e-mail: it takes the same way as all the others."""

from collections.abc import Mapping
from email.utils import parseaddr
from functools import cached_property
from typing import Any, ClassVar, Self

from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailer.email import Email, Recipient, ReferenceGone
from mailer.mime import serializer as payloads
from mailer.models import Payload


class DjangoMail(Email):
    """What `send_mail()`, Django itself or somebody else's app handed over, ready but for its Message-ID."""

    kind: ClassVar = "mailer.DjangoMail"
    template: ClassVar = ""  # it brings its own words

    payload: Payload

    @cached_property
    def built(self) -> EmailMessage:
        """The message, equal to the one that was handed over. Raises UnknownKind for one that a newer release wrote."""
        return payloads.load(bytes(self.payload.document))

    def recipient(self) -> Recipient:
        return Recipient(parseaddr(self.built.recipients()[0])[1])

    @classmethod
    def load(cls, arguments: Mapping[str, Any]) -> Self:
        try:
            return super().load(arguments)
        except ReferenceGone:
            raise ReferenceGone(
                "its body was erased, as it is POSTCOMMIT_BODY_RETENTION_DAYS after a message is settled"
            ) from None

    @classmethod
    def sample(cls) -> Self:
        mail = EmailMultiAlternatives("A subject", "The text.", None, ["ann@example.com"])
        mail.attach_alternative("<p>The text.</p>", "text/html")
        return cls(Payload(document=payloads.dump(mail)))
