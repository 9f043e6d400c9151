"""The tables: messages, stored bodies, delivery attempts, workers, suppressed addresses, and the state of transports.

Every time in them comes from the clock of the database, which all machines share.
"""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Collate, Left, Lower, Now

from mailer.addresses import canonical


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

NOT_SENT = (State.FAILED, State.CANCELLED, State.EXPIRED, State.SUPPRESSED)
"""These are settled, and were not sent."""

SOURCES: dict[State, tuple[State, ...]] = {
    State.SENDING: WAITING,
    # All but SENDING are for an acceptance that arrives late: it overrides what was assumed meanwhile.
    State.SENT: (State.SENDING, State.HELD, State.RETRYING, State.QUEUED, State.FAILED, State.EXPIRED),
    State.RETRYING: (State.SENDING,),
    State.HELD: (State.SENDING, *WAITING),  # of the waiting ones, a message that ended several workers
    State.FAILED: (State.SENDING, *WAITING),
    State.EXPIRED: (State.SENDING, *WAITING),
    State.CANCELLED: (*WAITING, State.HELD),
    State.SUPPRESSED: WAITING,
    State.QUEUED: (State.HELD, State.FAILED),  # a person retries it
}
"""The state machine: from which states each state can be reached."""

LOWER_RECIPIENT = Collate(Lower("recipient"), "C")
"""As `addresses.canonical`. With the collation C, an index finds the beginning of a text in any database."""

ACCEPTED, REFUSED = "accepted", "refused"
"""The values of `Message.answers`."""


ERASED = {"(erased)": True}
"""The arguments of a message whose recipient was erased. No field can have this name."""

OPEN_END = datetime(9999, 1, 1, tzinfo=UTC)
"""The end of a pause that lasts until a person ends it, and when a message is due that waits for it."""

SILENCE = timedelta(seconds=8)
"""A worker without a heartbeat for this long counts as dead. Its claims and reservations are abandoned."""


class Role(models.TextChoices):
    """What a process with a heartbeat does."""

    WORKER = "worker", "delivers mail"
    COMMAND = "command", "delivers mail once, for a person"
    BEAT = "beat", "schedules periodic tasks"


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> Self:
        """Return the processes that wrote a heartbeat lately."""
        return self.filter(seen_at__gt=Now() - SILENCE)


class Worker(models.Model):
    """A process that delivers messages, or schedules tasks. It writes its heartbeat every few seconds."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    release = models.CharField(
        max_length=50, help_text="A digest of its code. Different ones: a deployment is under way."
    )
    role = models.CharField(max_length=10, choices=Role, default=Role.WORKER, db_default=Role.WORKER)
    queues = models.JSONField(default=list, help_text="The queues that it serves.")
    doing = models.CharField(max_length=200, blank=True, help_text="The messages that it has in hand.")
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    swept_at = models.DateTimeField(null=True, blank=True, help_text="The beginning of its last sweep.")
    broker_at = models.DateTimeField(null=True, blank=True, help_text="The last answer of the broker to it.")

    objects: ClassVar[WorkerQuerySet] = WorkerQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["host", "pid"]

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}"


def has_living_worker() -> models.Exists:
    """Return a condition for messages: whether a living worker has it in hand."""
    return models.Exists(Worker.objects.alive().filter(pk=models.OuterRef("worker")))


class MessageQuerySet(models.QuerySet["Message"]):
    def move(self, to: State, /, **changes: Any) -> int:
        """Move the messages of this queryset that may reach the state, in one UPDATE. Return their number.

        The UPDATE's condition includes the old state, so of two processes that move the same message only one gets 1.
        """
        if to in SETTLED:
            changes.setdefault("settled_at", Now())
        return self.filter(state__in=SOURCES[to]).update(state=to, worker=None, claimed_until=None, **changes)

    def waiting(self) -> Self:
        """Return messages that a worker claims when they are due."""
        return self.filter(state__in=WAITING)

    def due(self) -> Self:
        """Return waiting messages whose time has come."""
        return self.waiting().filter(due_at__lte=Now())

    def free(self) -> Self:
        """Return messages that no living worker has in hand."""
        return self.exclude(has_living_worker())

    def overdue(self, since: timedelta) -> Self:
        """Return messages that have been due and free for this long."""
        return self.waiting().filter(due_at__lte=Now() - since).free()

    def late(self, since: timedelta) -> Self:
        """Return waiting messages that have been due, could not be prepared, or were set aside, for this long."""
        limit = Now() - since
        is_set_aside = Q(due_at=OPEN_END, first_due_at__lte=limit)
        return self.waiting().filter(Q(due_at__lte=limit) | Q(troubled_since__lte=limit) | is_set_aside)

    def set_aside(self) -> Self:
        """Return waiting messages that no worker looks at, because their stream was paused when they were due."""
        return self.waiting().filter(due_at=OPEN_END)

    def expired(self) -> Self:
        """Return waiting messages whose deadline has passed."""
        return self.waiting().filter(expires_at__lte=Now())

    def age_of_oldest_due(self) -> float:
        """Return the seconds that the oldest due message has waited, since it was first due; 0.0 if none is due."""
        waited = self.due().aggregate(waited=Now() - models.Min("first_due_at"))["waited"]
        return round(waited.total_seconds(), 1) if waited else 0.0

    def abandoned(self) -> Self:
        """Return messages whose worker fell silent while it sent them, or did not settle them before its lease ended."""
        is_silent = Q(worker__isnull=False) & ~has_living_worker()
        return self.filter(is_silent | Q(claimed_until__lt=Now()), state=State.SENDING)


class Payload(models.Model):
    """The body of a message that Django built, in its own table so that it can be erased before the message."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    document = models.BinaryField(help_text="Compressed; `mailer.mime.serializer` writes and reads it.")
    created_at = models.DateTimeField(db_default=Now(), db_index=True)

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
    recipient = models.EmailField(max_length=254)
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
        help_text="Attempts up to this number make no pause longer: a person retried it then.",
    )
    created_at = models.DateTimeField(db_default=Now())
    first_due_at = models.DateTimeField(
        db_default=Now(), help_text="When it was first due, or due again because a person retried it."
    )
    due_at = models.DateTimeField(db_default=Now(), help_text="No attempt before this.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="No attempt after this.")
    worker = models.UUIDField(null=True, blank=True, help_text="The worker that has it in hand.")
    reservations = models.PositiveSmallIntegerField(
        default=0,
        db_default=0,
        help_text="The number of workers that took it in hand: all but the last fell silent before they claimed it.",
    )
    troubled_since = models.DateTimeField(
        null=True, blank=True, help_text="Since then it could not be prepared. Empty while there is no trouble."
    )
    claimed_until = models.DateTimeField(null=True, blank=True, help_text="The end of the sending worker's lease.")
    notify_at = models.DateTimeField(
        null=True, blank=True, help_text="When to call the receivers of message_settled. Empty: they were called."
    )
    settled_at = models.DateTimeField(null=True, blank=True)
    answers = models.JSONField(
        default=dict,
        db_default={},  # during a deploy, processes of the release without this column still insert rows
        blank=True,
        help_text="The final answer for each of several recipients: accepted, or refused for good.",
    )
    traceparent = models.CharField(
        max_length=55,
        blank=True,
        default="",
        db_default="",
        help_text="The trace of the request that enqueued it (W3C Trace Context), if OpenTelemetry is installed.",
    )
    resent_from = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        db_index=False,
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
        indexes = [  # the first six stay as small as the backlog
            models.Index("queue", "transport", "due_at", name="message_due", condition=Q(state__in=WAITING)),
            models.Index(
                "expires_at", name="message_expiring", condition=Q(state__in=WAITING, expires_at__isnull=False)
            ),
            models.Index("kind", name="message_set_aside", condition=Q(state__in=WAITING, due_at=OPEN_END)),
            models.Index("notify_at", name="message_notify", condition=Q(notify_at__isnull=False)),
            models.Index("kind", name="message_held", condition=Q(state=State.HELD)),
            models.Index("claimed_until", name="message_claimed", condition=Q(state=State.SENDING)),
            models.Index("settled_at", name="message_settled", condition=Q(settled_at__isnull=False)),
            models.Index("message_id_header", name="message_message_id"),
            # For `recipients.search`: the beginning of an address; a part of it, without reading rows; several recipients
            models.Index(LOWER_RECIPIENT, name="message_lower_recipient"),
            models.Index(fields=["id"], include=["recipient"], name="message_newest"),
            models.Index("id", name="message_several", condition=~Q(answers={})),
            models.Index("payload", name="message_payload", condition=Q(payload__isnull=False)),
            models.Index("resent_from", name="message_resent_from", condition=Q(resent_from__isnull=False)),
            # For the admin's list of messages, which has the newest first
            models.Index("id", name="message_not_sent", condition=Q(state__in=NOT_SENT)),
            models.Index("kind", "id", name="message_kind"),
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
    INTERRUPTED = "interrupted", "stopped before anything was sent"


class Taken(models.TextChoices):
    """How a message came to the worker that tried to deliver it."""

    TASK = "task", "handed over with a task of its own"
    KICK = "kick", "handed over with a task for its queue"
    FOUND = "found", "not handed over: the worker found it without the broker"
    COMMAND = "command", "delivered by a person's command"


TOOK = (Outcome.ACCEPTED, Outcome.PARTLY_ACCEPTED)
"""The server took the message, for some recipients at least."""

NEWEST = 500
"""Attempts that are looked at to judge a transport."""


PROVIDER_ID = "provider's message id "
"""The beginning of a response that is the provider's own id of the mail."""
RESPONSE_BEGINS = Left("response", 250)
"""Bounded, because an index of PostgreSQL is."""


class AttemptQuerySet(models.QuerySet["DeliveryAttempt"]):
    def newest(self) -> Self:
        """Return the last NEWEST attempts, by the primary key: no index by time is needed."""
        newest = models.Subquery(DeliveryAttempt.objects.order_by("-pk").values("pk")[:1])
        return self.filter(pk__gt=newest - NEWEST)


class DeliveryAttempt(models.Model):
    """One conversation with a mail server. The row is written before it begins and completed after it ends."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="delivery_attempts")
    number = models.PositiveIntegerField()
    transport = models.CharField(max_length=50)
    worker = models.CharField(max_length=200, blank=True, help_text="The host of the worker.")
    taken = models.CharField(
        max_length=10,
        choices=Taken,
        blank=True,
        default="",
        db_default="",
        help_text="How the message came to the worker.",
    )
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=20, choices=Outcome, default=Outcome.PENDING)
    phase = models.CharField(
        max_length=10,
        blank=True,
        default="",
        db_default="",
        help_text="The step of the conversation that was answered.",
    )
    code = models.CharField(max_length=40, blank=True, help_text="The SMTP reply or HTTP status.")
    response = models.TextField(blank=True, help_text="What the server said, addresses masked.")

    objects: ClassVar[AttemptQuerySet] = AttemptQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["message", "number"]
        constraints = [models.UniqueConstraint("message", "number", name="attempt_number_unique")]
        indexes = [  # for the reports of providers that know no name of ours
            models.Index(RESPONSE_BEGINS, name="attempt_provider_id", condition=Q(response__startswith=PROVIDER_ID)),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of message {self.message_id}"


class What(models.TextChoices):
    """What the receiving side says of a mail that a server took. It changes no state of the message."""

    DELIVERED = "delivered", "delivered"
    DELAYED = "delayed", "delayed"
    BOUNCED = "bounced", "bounced"
    DROPPED = "dropped", "not sent by the provider"
    COMPLAINED = "complained", "reported as spam"
    UNSUBSCRIBED = "unsubscribed", "unsubscribed at the provider"
    OPENED = "opened", "opened"


class Bounce(models.TextChoices):
    """What a bounce says about the address."""

    NONE = "", "no bounce"
    HARD = "hard", "the address does not exist"
    SOFT = "soft", "the mailbox could not be reached"
    POLICY = "policy", "the mail was refused, not the address"


class DeliveryEvent(models.Model):
    """A fact that the receiving side reported: a provider by its webhook, or a mail server by a bounce.

    It is stored first, and applied by a task.
    """

    source = models.CharField(max_length=50, help_text="The provider, or what read the bounce.")
    event_id = models.CharField(max_length=200, help_text="The same fact that is reported again has the same id.")
    what = models.CharField(max_length=15, choices=What)
    bounce = models.CharField(max_length=10, choices=Bounce, blank=True, default=Bounce.NONE)
    recipient = models.CharField(max_length=254, blank=True, help_text="The address that it is about.")
    original_recipient = models.CharField(max_length=254, blank=True, help_text="The address that we wrote to.")
    code = models.CharField(max_length=40, blank=True, help_text="The status that was reported.")
    text = models.TextField(blank=True, help_text="What was said, addresses masked.")
    at = models.DateTimeField(help_text="When it happened, as the report says.")
    received_at = models.DateTimeField(db_default=Now())
    about = models.JSONField(default=dict, help_text="How the report names the mail.")
    apply_at = models.DateTimeField(
        null=True, blank=True, db_default=Now(), help_text="When to look for its message. Empty: it was applied."
    )
    message = models.ForeignKey(
        Message,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="events",
        help_text="Empty: no message of ours was found.",
    )

    class Meta:
        ordering = ["message", "at", "pk"]
        constraints = [models.UniqueConstraint("source", "event_id", name="event_unique")]
        indexes = [
            models.Index("apply_at", name="event_to_apply", condition=Q(apply_at__isnull=False)),
            models.Index("received_at", name="event_of_nobody", condition=Q(message=None)),
            models.Index("received_at", name="event_complained", condition=Q(what=What.COMPLAINED)),
        ]

    def __str__(self) -> str:
        return f"{self.what} of message {self.message_id}"

    @property
    def said(self) -> str:
        """What was said: mostly the text has the code."""
        return self.text if self.code in self.text else f"{self.code} {self.text}".strip()


class CanonicalAddressField(models.EmailField):  # type: ignore[type-arg]
    """Stores an address in the form of `addresses.canonical`, and finds it by any of its spellings."""

    def to_python(self, value: Any) -> Any:
        return canonical(value) if isinstance(value, str) else super().to_python(value)

    def get_prep_value(self, value: Any) -> Any:
        return super().get_prep_value(self.to_python(value))


class Cause(models.TextChoices):
    """Why an address gets no mail. All but an unsubscribe stop every mail to it."""

    BOUNCE = "bounce", "the address does not exist"
    BOUNCES = "bounces", "mail to it came back several times"
    COMPLAINT = "complaint", "its owner reported our mail as spam"
    UNSUBSCRIBE = "unsubscribe", "its owner unsubscribed"
    OPERATOR = "operator", "a person decided it"


ALL_STREAMS = "*"
"""The stream of an address that unsubscribed without naming one: it gets no mail of any stream."""


class Suppression(models.Model):
    """An address that gets no mail, or no mail of a stream."""

    address = CanonicalAddressField(max_length=254)
    stream = models.CharField(
        max_length=50,
        blank=True,
        default="",
        db_default="",
        help_text="Empty: the address gets no mail at all. *: it gets no mail of any stream.",
    )
    cause = models.CharField(max_length=15, choices=Cause, default=Cause.OPERATOR, db_default=Cause.BOUNCE)
    source = models.CharField(
        max_length=100, blank=True, default="", db_default="", help_text="What reported it, or who entered it."
    )
    reason = models.TextField()
    message = models.ForeignKey(Message, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint("address", "stream", name="suppression_unique")]

    def __str__(self) -> str:
        return str(self.address)

    @property
    def what(self) -> str:
        """What the address does not get, to be read after "no"."""
        if self.stream == ALL_STREAMS:
            return "mail that one can unsubscribe from"
        return f"mail of the stream {self.stream}" if self.stream else "mail at all"


class Circuit(models.Model):
    """The circuit breaker of a transport, as one host sees it. While the transport works there need be no row.

    The pause of a person has a row of its own, which workers obey and do not change.
    """

    transport = models.CharField(max_length=50)
    host = models.CharField(
        max_length=200, blank=True, help_text="The host that cannot use it. Empty: it is paused for all hosts."
    )
    failures = models.PositiveIntegerField(default=0, help_text="The number of failed probes in a row.")
    paused_since = models.DateTimeField(null=True, blank=True)
    paused_until = models.DateTimeField(
        null=True, blank=True, help_text="After this one message probes it. Empty while it works."
    )
    needs_person = models.BooleanField(
        default=False, help_text="A person must correct the configuration or the account."
    )
    by_person = models.BooleanField(
        default=False, db_default=False, help_text="A person paused it for all hosts. It is not probed."
    )
    reason = models.TextField(blank=True)

    by_quota = False
    """Whether it stands for a daily quota that is used up. No row has it: `delivery.quota` counts."""

    class Meta:
        ordering = ["transport", "host"]
        constraints = [models.UniqueConstraint("transport", "host", "by_person", name="circuit_unique_for_cause")]

    def __str__(self) -> str:
        return f"{self.transport} from {self.host or 'all hosts'}"

    @property
    def ends_at(self) -> datetime | None:
        """The end of the pause, if it ends by itself."""
        return None if self.paused_until == OPEN_END else self.paused_until


class TransportState(models.Model):
    """The pace of a transport. One that has no limit and was never slowed down may have no row."""

    alias = models.CharField(max_length=50, primary_key=True)
    rate = models.FloatField(
        null=True,
        blank=True,
        help_text="Messages a second, as learnt from the server's refusals. Empty: no limit is known.",
    )
    slot_at = models.DateTimeField(
        null=True, blank=True, help_text="Under a rate limit, no message is sent before this."
    )
    taken = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        help_text="Under a daily quota, the number of messages in each hour, which is named by its number since 1970.",
    )

    class Meta:
        ordering = ["alias"]

    def __str__(self) -> str:
        return self.alias


class StreamReputation(models.Model):
    """How many recipients of a stream reported its mail as spam, and whether it is paused.

    A stream without complaints may have no row.
    """

    stream = models.CharField(max_length=50, primary_key=True)
    complaints = models.PositiveIntegerField(
        default=0, help_text="Of the mails of the last day, those that were reported as spam."
    )
    sent = models.PositiveIntegerField(
        default=0, help_text="The mails of the last day. 0: so few were reported that they were not counted."
    )
    counted_at = models.DateTimeField(db_default=Now())
    counts_from = models.DateTimeField(
        null=True, blank=True, help_text="A person resumed it then. Mail that was sent before does not count."
    )
    paused_since = models.DateTimeField(null=True, blank=True, help_text="Since then its mail waits.")
    by_person = models.BooleanField(default=False, help_text="A person paused it.")
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ["stream"]
        verbose_name = "stream"

    def __str__(self) -> str:
        return self.stream

    @property
    def rate(self) -> float | None:
        """The share of the mails of the last day that was reported as spam. None: too few were reported to tell."""
        return self.complaints / self.sent if self.sent else None
