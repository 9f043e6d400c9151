"""What is stored about an address: find all of it, and erase it. Counts stay: the rows of messages, without the person.

An address is in the row of a message to it, in the answers of several recipients, in the body of a message that Django built,
and perhaps in the arguments of a mail to another address.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import batched

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, TextField
from django.db.models.functions import Cast

from mailer.addresses import canonical
from mailer.mime import serializer
from mailer.models import ERASED, SETTLED, DeliveryAttempt, Message, MessageQuerySet, Payload
from mailer.recipients.search import messages_to
from mailer.text import LOCAL_PART

log = structlog.get_logger(__name__)

BATCH = 500
"""Messages that one transaction erases."""
REASON = "erased"
"""What a row says instead of what a server or a person said."""
NOBODY = {
    "recipient": "",
    "subject": "",
    "arguments": ERASED,
    "user": None,
    "answers": {},
    "key": "",
    "message_id_header": "",
    "traceparent": "",
    "payload": None,
    "reason": REASON,
}
"""The columns that may hold a person, and what they hold afterwards."""

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Holding:
    """The messages that hold an address."""

    address: str
    """In canonical form."""
    own: frozenset[int]
    """To this address first."""
    copies: frozenset[int]
    """To another address first, and to this one."""
    mentions: frozenset[int]
    """To other addresses, with this one in their arguments."""
    shared: frozenset[int]
    """Those of `own` and `copies` that Django built for several recipients, while their bodies are stored."""

    def messages(self) -> MessageQuerySet:
        return Message.objects.filter(pk__in=self.own | self.copies | self.mentions)

    def only_theirs(self) -> MessageQuerySet:
        """Return the messages that nobody else gets."""
        return Message.objects.filter(pk__in=self.own - self.shared)

    def erasable(self) -> MessageQuerySet:
        """Return the messages that are settled, and whose receivers were called."""
        return self.messages().filter(state__in=SETTLED, notify_at=None)


def find(address: str, progress: Progress) -> Holding:
    """Find the messages that hold the address. It reads all stored bodies, and calls `progress` after each of them."""
    form = canonical(address)
    own = frozenset(messages_to(address).filter(Q(lower_recipient=form)).values_list("pk", flat=True))
    answered = frozenset(messages_to(address).values_list("pk", flat=True)) - own
    shared = frozenset(_shared_bodies(form, progress))
    similar = Message.objects.alias(text=Cast("arguments", TextField())).filter(text__icontains=form)
    naming = frozenset(pk for pk, arguments in similar.values_list("pk", "arguments") if names(arguments, form))
    copies = (answered | shared) - own
    mentions = naming - own - copies
    return Holding(form, own, copies, mentions, shared)


def names(value: object, address: str) -> bool:
    """Return whether a value of arguments has the address, and not only a longer one with the same end or beginning."""
    whole = rf"(?<!{LOCAL_PART}){re.escape(address)}(?![\w-]|\.\w)"
    return re.search(whole, json.dumps(value, ensure_ascii=False), re.IGNORECASE) is not None


def _shared_bodies(form: str, progress: Progress) -> Iterator[int]:
    """Yield the messages whose stored body is for this address and others."""
    for body in Payload.objects.iterator(chunk_size=50):
        recipients = [canonical(entry) for entry in serializer.recipients(bytes(body.document))]
        if form in recipients and len(recipients) > 1:
            yield from body.messages.values_list("pk", flat=True)
        progress(1)


def erase(holding: Holding, progress: Progress) -> int:
    """Erase the address from the settled messages. Return their number. The others stay as they are."""
    erased = 0
    for batch in batched(holding.erasable().order_by("pk").values_list("pk", flat=True), BATCH):
        erased += _erase_batch(frozenset(batch), holding)
        progress(len(batch))
    log.info("erased what is stored about an address", messages=erased)
    return erased


@transaction.atomic
def _erase_batch(batch: frozenset[int], holding: Holding) -> int:
    # `outbox` locks a body before it retries or resends its message, and so does this.
    bodies = Payload.objects.filter(Exists(Message.objects.filter(pk__in=batch, payload=OuterRef("pk"))))
    held = list(bodies.order_by("pk").select_for_update().values_list("pk", flat=True))
    rows = holding.erasable().filter(pk__in=batch).order_by("pk").select_for_update(no_key=True)
    locked = frozenset(rows.values_list("pk", flat=True))
    Message.objects.filter(pk__in=locked & holding.own).update(**NOBODY)
    Message.objects.filter(pk__in=locked & holding.mentions).update(arguments=ERASED, reason=REASON)
    for message in Message.objects.filter(pk__in=locked & holding.copies):
        others = {each: answer for each, answer in message.answers.items() if canonical(each) != holding.address}
        Message.objects.filter(pk=message.pk).update(answers=others, payload=None, reason=REASON)
    DeliveryAttempt.objects.filter(message__in=locked).update(response="")
    unused = ~Exists(Message.objects.filter(payload=OuterRef("pk")))
    Payload.objects.only("pk").filter(unused, pk__in=held).delete()
    return len(locked)
