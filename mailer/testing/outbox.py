"""What tests of a project ask about its mail: what was enqueued, what it looks like, and what becomes of it.

In pytest it is the fixture `outbox` of mailer.testing.pytest_plugin; a unittest.TestCase makes an `Outbox()` of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils import timezone

from mailer.composing.message import build
from mailer.delivery import pipeline
from mailer.email import Email, find
from mailer.models import Message

LINK = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True, repr=False)
class Mail:
    """One message as it is built, without being sent."""

    built: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.built.subject)

    @property
    def to(self) -> list[str]:
        """Everybody who gets it, as `Name <address>`: To, Cc and Bcc."""
        return self.built.recipients()

    @property
    def text(self) -> str:
        return str(self.built.body)

    @property
    def html(self) -> str:
        """The HTML; empty if there is none."""
        alternatives = self.built.alternatives if isinstance(self.built, EmailMultiAlternatives) else []
        return next((str(content) for content, mimetype in alternatives if mimetype == "text/html"), "")

    @property
    def links(self) -> list[str]:
        """The addresses of web pages in the text, in their order."""
        return [link.rstrip(".,;:!?)") for link in LINK.findall(self.text)]

    def __repr__(self) -> str:
        return f"<mail {self.subject!r} to {', '.join(self.to)}:\n{self.text}>"


class Outbox:
    """The messages in the test's database, the oldest first. It sees those of a transaction that is not committed too, so a
    test needs no hooks after a commit."""

    @property
    def messages(self) -> list[Message]:
        """All of them, read afresh each time."""
        return list(Message.objects.order_by("pk"))

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return Message.objects.count()

    def of(self, kind: type[Email]) -> list[Message]:
        """Those of one kind, under its former names too."""
        return list(Message.objects.filter(kind__in=kind.names()).order_by("pk"))

    def only(self, kind: type[Email]) -> Message:
        """The one message of this kind. Raises AssertionError, which says what there is instead."""
        found = self.of(kind)
        if len(found) != 1:
            raise AssertionError(f"there should be one {kind.kind}, and there are {len(found)}. {self.listing()}")
        return found[0]

    def mail(self, message: Message) -> Mail:
        """What the message looks like, be it still wanted or not. Whatever a template or its own class raises comes out."""
        return Mail(build(find(message.kind).load(message.arguments), message.message_id_header))

    def deliver(self, *, after: timedelta = timedelta(0)) -> list[Message]:
        """Does what the workers do with all that is due, the oldest first, and returns those messages as they stand then.

        The mails are in `django.core.mail.outbox`, unless the test has a transport of its own. `after` brings the due times
        so much nearer first: what is enqueued with a delay, or waits for its next attempt, need not be waited for.
        """
        for message in Message.objects.waiting().order_by("pk"):
            Message.objects.filter(pk=message.pk).update(due_at=message.due_at - after)
        delivered: list[int] = []
        while due := self._due_beside(delivered):  # also what the settling of one made somebody enqueue
            pipeline.deliver(due.pk)
            delivered.append(due.pk)
        return list(Message.objects.filter(pk__in=delivered).order_by("pk"))

    def _due_beside(self, delivered: list[int]) -> Message | None:
        due = Message.objects.waiting().filter(due_at__lte=timezone.now()).exclude(pk__in=delivered)
        return due.order_by("pk").first()

    def listing(self) -> str:
        """A sentence, and a line for each message."""
        lines = [f"  #{m.pk} {m.kind} to {m.recipient}, {m.state}{f': {m.reason}' if m.reason else ''}" for m in self]
        return "\n".join(["The outbox has:", *lines]) if lines else "The outbox is empty."

    def __repr__(self) -> str:
        return f"<outbox: {', '.join(f'{message.kind} {message.state}' for message in self) or 'empty'}>"
