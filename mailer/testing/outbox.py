"""Helpers for a project's tests: see what was enqueued, build it, and deliver it.

In pytest use the fixture `outbox` of mailer.testing.pytest_plugin; in a unittest.TestCase create an `Outbox()`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.db.models import F
from django.utils import timezone

from mailer import database
from mailer.composing.message import build
from mailer.delivery import pipeline
from mailer.delivery.heartbeat import heartbeat
from mailer.email import Email, find
from mailer.models import Message

NONE = timedelta(0)
LINK = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True, repr=False)
class Mail:
    """A message that was built but not sent."""

    built: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.built.subject)

    @property
    def to(self) -> list[str]:
        """All recipients (To, Cc and Bcc), as `Name <address>`."""
        return self.built.recipients()

    @property
    def text(self) -> str:
        return str(self.built.body)

    @property
    def html(self) -> str:
        """The HTML, or an empty string."""
        alternatives = self.built.alternatives if isinstance(self.built, EmailMultiAlternatives) else []
        return next((str(content) for content, mimetype in alternatives if mimetype == "text/html"), "")

    @property
    def links(self) -> list[str]:
        """The URLs in the text, in their order."""
        return [link.rstrip(".,;:!?)") for link in LINK.findall(self.text)]

    def __repr__(self) -> str:
        return f"<mail {self.subject!r} to {', '.join(self.to)}:\n{self.text}>"


class Outbox:
    """The messages in the test's database, oldest first, including those of the open transaction."""

    @property
    def messages(self) -> list[Message]:
        """All messages, read from the database each time."""
        return list(Message.objects.order_by("pk"))

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return Message.objects.count()

    def of(self, kind: type[Email]) -> list[Message]:
        """Return the messages of one kind, also under its former names."""
        return list(Message.objects.filter(kind__in=kind.names()).order_by("pk"))

    def only(self, kind: type[Email]) -> Message:
        """Return the only message of this kind. Raises AssertionError, which lists all messages, if there is not one."""
        found = self.of(kind)
        if len(found) != 1:
            raise AssertionError(f"expected one {kind.kind}, found {len(found)}. {self.listing()}")
        return found[0]

    def mail(self, message: Message) -> Mail:
        """Build the message, even if it is not wanted any more. Raises what its template or class raises."""
        return Mail(build(find(message.kind).load(message.arguments), message.message_id_header))

    def deliver(self, *, after: timedelta = timedelta(0)) -> list[Message]:
        """Deliver all due messages as a worker would, oldest first, and return them.

        The mails arrive in `django.core.mail.outbox`, unless the test sets up another transport. `after` moves the due
        times forward by this much first, so that a test need not wait for a delay or a retry. Deadlines are compared with the
        test's own clock, which it may have moved.
        """
        heartbeat.beat()  # the test is the worker; an earlier test has rolled back its row
        ahead = timezone.now() - database.now()
        waiting = list(Message.objects.waiting().values_list("pk", flat=True))
        moved = Message.objects.filter(pk__in=waiting)
        moved.update(due_at=F("due_at") - after - max(ahead, NONE), expires_at=F("expires_at") - ahead)
        delivered: list[int] = []  # one at a time, because a delivery may enqueue further messages
        while due := Message.objects.due().exclude(pk__in=delivered).order_by("pk").first():
            pipeline.deliver(due.pk)
            delivered.append(due.pk)
        moved.update(expires_at=F("expires_at") + ahead)
        return list(Message.objects.filter(pk__in=delivered).order_by("pk"))

    def listing(self) -> str:
        """Describe the outbox: a heading, then one line for each message."""
        lines = [f"  #{m.pk} {m.kind} to {m.recipient}, {m.state}{f': {m.reason}' if m.reason else ''}" for m in self]
        return "\n".join(["The outbox has:", *lines]) if lines else "The outbox is empty."

    def __repr__(self) -> str:
        return f"<outbox: {', '.join(f'{message.kind} {message.state}' for message in self) or 'empty'}>"
