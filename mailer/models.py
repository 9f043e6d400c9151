"""The tables: messages, stored bodies, delivery attempts, suppressed addresses, and the state of transports."""

import uuid
from datetime import datetime
from typing import Any, ClassVar, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone


class Queue(models.TextChoices):
    """The Celery queues, the most urgent one first."""

    CRITICAL = "critical"
    DEFAULT = "default"
    BULK = "bulk"


class State(models.TextChoices):
    """The state of a message. `SOURCES` has the possible transitions."""

    QUEUED = "queued"
    SENDING = "sending"
    RETRYING = "retrying"
    SENT = "sent"
    HELD = "held"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"


WAITING = (State.QUEUED, State.RETRYING)
"""A worker may claim these once they are due."""

UNSETTLED = (*WAITING, State.SENDING, State.HELD)
"""These may still be transmitted: automatically, or after a person decided."""

SETTLED = (State.SENT, State.FAILED, State.CANCELLED, State.EXPIRED, State.SUPPRESSED)
"""These change only if a person decides so, or if a late acceptance arrives."""

SOURCES: dict[State, tuple[State, ...]] = {
    State.SENDING: WAITING,
    # All but SENDING are for an acceptance that arrives late: it overrides what was assumed meanwhile.
    State.SENT: (State.SENDING, State.HELD, State.RETRYING, State.QUEUED, State.FAILED, State.EXPIRED),
    State.RETRYING: (State.SENDING,),
    State.HELD: (State.SENDING,),
    State.FAILED: (State.SENDING, *WAITING),
    State.EXPIRED: (State.SENDING, *WAITING),
    State.CANCELLED: (*WAITING, State.HELD),
    State.SUPPRESSED: WAITING,
    State.QUEUED: (State.HELD, State.FAILED),  # a person retries it
}
"""The state machine: from which states each state can be reached."""

ACCEPTED, REFUSED = "accepted", "refused"
"""The values of `Message.answers`."""


class MessageQuerySet(models.QuerySet["Message"]):
    def move(self, to: State, /, **changes: Any) -> int:
        """Move the messages of this queryset that may reach the state, in one UPDATE. Return their number.

        The UPDATE's condition includes the old state, so of two processes that move the same message only one gets 1.
        """
        if to in SETTLED:
            changes.setdefault("settled_at", timezone.now())
        return self.filter(state__in=SOURCES[to]).update(state=to, **changes)

    def waiting(self) -> Self:
        """Return messages that a worker claims when they are due."""
        return self.filter(state__in=WAITING)

    def overdue(self, queue: Queue, now: datetime) -> Self:
        """Return the waiting messages of a queue that the sweep may publish now, the longest waiting first."""
        return self.waiting().filter(queue=queue, publish_at__lte=now).order_by("publish_at")

    def age_of_oldest_due(self) -> float:
        """Return the seconds that the oldest due message has waited; 0.0 if none is due."""
        now = timezone.now()
        oldest = self.waiting().filter(due_at__lte=now).aggregate(models.Min("due_at"))["due_at__min"]
        return round((now - oldest).total_seconds(), 1) if oldest else 0.0

    def abandoned(self) -> Self:
        """Return messages whose worker did not settle them before its lease ended.

        Leases use the database's clock: the clocks of two machines may differ by more than a lease.
        """
        return self.filter(state=State.SENDING, claimed_until__lt=Now())


class Payload(models.Model):
    """The body of a message that Django built, in its own table so that it can be erased before the message."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    document = models.BinaryField(help_text="Compressed; `mailer.mime.serializer` writes and reads it.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        verbose_name = "stored body"
        verbose_name_plural = "stored bodies"

    def __str__(self) -> str:
        return f"stored body {self.pk}"


class Message(models.Model):
    """One e-mail. The row has its state; a task in the broker only makes a worker read the row."""

    kind = models.CharField(max_length=200, help_text="The class of the e-mail.")
    arguments = models.JSONField(default=dict, help_text="The fields of the e-mail: primary keys and plain values.")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    recipient = models.EmailField(max_length=254, db_index=True)
    payload = models.ForeignKey(
        Payload,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        db_index=False,
        related_name="messages",
        help_text="The stored body, if Django built the message.",
    )
    subject = models.CharField(max_length=998, blank=True, help_text="As it was last built.")
    message_id_header = models.CharField(
        "Message-ID",
        max_length=250,
        help_text="The same in every attempt, so that receivers can drop a copy.",
    )
    queue = models.CharField(max_length=10, choices=Queue, default=Queue.DEFAULT)
    transport = models.CharField(
        max_length=50,
        blank=True,
        default="",
        db_default="",
        help_text="The alias in MAILERS of the only transport that it may take. Empty: the default route.",
    )
    key = models.CharField(max_length=200, blank=True, help_text="At most one unsettled message has this key.")

    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    reason = models.TextField(blank=True, help_text="Why it is in this state, for a person to read.")
    attempts = models.PositiveIntegerField(default=0, help_text="The number of the newest attempt.")
    counted_after = models.PositiveIntegerField(
        default=0,
        help_text="Attempts up to this number do not count against the limit: a person retried it then.",
    )
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(default=timezone.now, help_text="No attempt before this.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="No attempt after this.")
    publish_at = models.DateTimeField(default=timezone.now, help_text="No task is published by the sweep before this.")
    handovers = models.PositiveSmallIntegerField(
        default=0, help_text="The number of tasks that the sweep published since a worker last claimed it."
    )
    claimed_until = models.DateTimeField(null=True, blank=True, help_text="The end of the sending worker's lease.")
    settled_at = models.DateTimeField(null=True, blank=True)
    answers = models.JSONField(
        default=dict,
        db_default={},  # during a deploy, processes of the release without this column still insert rows
        blank=True,
        help_text="The final answer for each of several recipients: accepted, or refused for good.",
    )
    resent_from = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="resent_as",
        help_text="The message that a person resent as this one.",
    )

    objects: ClassVar[MessageQuerySet] = MessageQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint("key", name="message_key_unsettled", condition=Q(state__in=UNSETTLED) & ~Q(key="")),
            models.CheckConstraint(name="message_state_known", condition=Q(state__in=State.values)),
            models.CheckConstraint(
                name="message_sending_has_lease",
                condition=Q(state=State.SENDING, claimed_until__isnull=False) | ~Q(state=State.SENDING),
            ),
        ]
        indexes = [  # the first two stay as small as the backlog
            models.Index("queue", "publish_at", name="message_waiting", condition=Q(state__in=WAITING)),
            models.Index("claimed_until", name="message_claimed", condition=Q(state=State.SENDING)),
            models.Index("settled_at", name="message_settled", condition=Q(settled_at__isnull=False)),
            models.Index("message_id_header", name="message_message_id"),
            models.Index("payload", name="message_payload", condition=Q(payload__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} #{self.pk}"

    def log_fields(self) -> dict[str, Any]:
        """Return the fields of every log line about this message. They are not personal."""
        return {"message_id": self.pk, "kind": self.kind, "queue": str(self.queue)}


class Outcome(models.TextChoices):
    """How an attempt ended."""

    PENDING = "pending", "under way"
    ACCEPTED = "accepted", "accepted"
    PARTLY_ACCEPTED = "partly_accepted", "accepted for some recipients"
    REFUSED_FOR_NOW = "refused_for_now", "refused for now"
    REFUSED_FOR_GOOD = "refused_for_good", "refused for good"
    TRANSPORT_DOWN = "transport_down", "server not reached or not willing"
    UNCERTAIN = "uncertain", "transmitted, no answer seen"


class DeliveryAttempt(models.Model):
    """One conversation with a mail server. The row is written before it begins and completed after it ends."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="delivery_attempts")
    number = models.PositiveIntegerField()
    transport = models.CharField(max_length=50)
    worker = models.CharField(max_length=200, blank=True)
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=20, choices=Outcome, default=Outcome.PENDING)
    code = models.CharField(max_length=40, blank=True, help_text="The SMTP reply or HTTP status.")
    response = models.TextField(blank=True, help_text="What the server said, addresses masked.")

    class Meta:
        ordering = ["message", "number"]
        constraints = [models.UniqueConstraint("message", "number", name="attempt_number_unique")]

    def __str__(self) -> str:
        return f"attempt {self.number} of message {self.message_id}"


class Suppression(models.Model):
    """An address that gets no mail: its server says that it does not exist, or its owner unsubscribed from a stream."""

    address = models.EmailField(max_length=254)
    stream = models.CharField(
        max_length=50, blank=True, default="", db_default="", help_text="Empty: the address gets no mail at all."
    )
    reason = models.TextField()
    message = models.ForeignKey(Message, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint("address", "stream", name="suppression_unique")]

    def __str__(self) -> str:
        return self.address

    def clean(self) -> None:
        """Lower the address, as look-ups need it. The admin's form calls this."""
        self.address = self.address.lower()


class TransportState(models.Model):
    """The circuit breaker and the rate limit of a transport. A transport that never failed may have no row."""

    alias = models.CharField(max_length=50, primary_key=True)
    failures = models.PositiveIntegerField(default=0, help_text="The number of failed probes in a row.")
    paused_until = models.DateTimeField(
        null=True, blank=True, help_text="After this one message probes it. Empty while it works."
    )
    reason = models.TextField(blank=True)
    slot_at = models.DateTimeField(
        null=True, blank=True, help_text="Under a rate limit, no message is sent before this."
    )

    class Meta:
        ordering = ["alias"]

    def __str__(self) -> str:
        return self.alias
