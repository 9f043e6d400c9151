"""A message that Django built, as a kind of e-mail."""

from collections.abc import Mapping
from email.utils import parseaddr
from functools import cached_property
from typing import Any, ClassVar, Self

from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailer.email import Email, Recipient, ReferenceGone, Rows
from mailer.mime import serializer
from mailer.models import Payload


class DjangoMail(Email):
    """A message from `send_mail()`, from Django or from another app: complete except for its Message-ID."""

    kind: ClassVar = "mailer.DjangoMail"
    template: ClassVar = ""  # the message has its own text

    payload: Payload

    @cached_property
    def built(self) -> EmailMessage:
        """Restore the original message. Raises UnknownKind if a newer release stored it."""
        return serializer.load(bytes(self.payload.document))

    def recipient(self) -> Recipient:
        return Recipient(parseaddr(self.built.recipients()[0])[1])

    @classmethod
    def load(cls, arguments: Mapping[str, Any], rows: Rows | None = None) -> Self:
        try:
            return super().load(arguments, rows)
        except ReferenceGone:
            raise ReferenceGone("its body was erased POSTCOMMIT_BODY_RETENTION_DAYS after it was settled") from None

    @classmethod
    def sample(cls) -> Self:
        mail = EmailMultiAlternatives("A subject", "The text.", None, ["ann@example.com"])
        mail.attach_alternative("<p>The text.</p>", "text/html")
        return cls(Payload(document=serializer.dump(mail)))
