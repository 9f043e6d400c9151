"""What is stored about an address: find all of it, and erase it. Counts stay: the rows of messages, without the person.

An address is in the row of a message to it, in the answers of several recipients, in the body of a message that Django built,
and perhaps in the arguments, subject, key, reason or stored body of a mail to another address.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import batched
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, TextField
from django.db.models.functions import Cast, Concat

from mailer.addresses import canonical
from mailer.email import Unwanted
from mailer.email import find as find_kind
from mailer.feedback import events
from mailer.mime import serializer
from mailer.models import ERASED, SETTLED, UNSETTLED, DeliveryAttempt, DeliveryEvent, Message, MessageQuerySet, Payload
from mailer.recipients.search import messages_to
from mailer.text import LOCAL_PART

log = structlog.get_logger(__name__)

BATCH = 500
"""Messages that one transaction erases."""
REASON = "erased"
"""What a row says instead of what a server or a person said."""
NOBODY: dict[str, Any] = {
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
TEXTS = ("arguments", "subject", "key", "reason")
"""The columns in which a message to another address may name a person."""
WORD = re.compile(rf"(?<!{LOCAL_PART}){LOCAL_PART}+@[\w-]+(?:\.[\w-]+)*")
"""What may be an address in a text."""
SIGNS = "'`*_{|/"
"""Signs that often stand before an address, and that it seldom begins with."""

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
    """To other addresses, with this one in TEXTS or in their stored body."""
    shared: frozenset[int]
    """Those of `own` and `copies` that other recipients get too, as far as that is still known."""
    bodies: frozenset[int]
    """Those of all of these whose stored body is to this address, or has it."""

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
    shared, bodies = _of_bodies(form, progress)
    shared |= _for_others_too(own)
    several = Message.objects.exclude(answers={}).alias(text=Cast("answers", TextField()))
    answers = several.filter(text__icontains=_part(form)).values_list("pk", "answers")
    copies = (frozenset(pk for pk, each in answers if form in map(canonical, each)) | shared) - own
    return Holding(form, own, copies, (_naming(form) | bodies) - own - copies, shared, bodies)


def names(value: object, address: str) -> bool:
    """Return whether a value of arguments has the address in any spelling, and not only as a part of a longer one."""
    words = (word for text in _texts(value) for word in WORD.findall(text.replace("%40", "@")))
    return any(address in (canonical(word), canonical(word.rpartition("=")[2].lstrip(SIGNS))) for word in words)


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            yield from _texts([*value, *value.values()])
        case bytes():
            yield value.decode(errors="replace")
        case list() | tuple():
            for each in value:
                yield from _texts(each)


def _part(form: str) -> str:
    """Return a part that every spelling has: the domain may be written in Unicode, and quotes are escaped in JSON."""
    local = form.rpartition("@")[0]
    return "@" if '"' in local else f"{local}@"


def _naming(form: str) -> frozenset[int]:
    rows = Message.objects.alias(text=Concat(*(Cast(name, TextField()) for name in TEXTS), output_field=TextField()))
    rows = rows.filter(text__icontains=_part(form)).only(*TEXTS)
    return frozenset(row.pk for row in rows if any(names(getattr(row, name), form) for name in TEXTS))


def _for_others_too(own: frozenset[int]) -> frozenset[int]:
    """Return those of the messages that are not settled and whose kind has copies. Of Django's own, the body tells."""
    waiting = Message.objects.filter(pk__in=own, state__in=UNSETTLED, payload=None)
    return frozenset(message.pk for message in waiting if _has_copies(message))


def _has_copies(message: Message) -> bool:
    try:
        mail = find_kind(message.kind).load(message.arguments)
        return bool(mail.cc() or mail.bcc())
    except Unwanted:  # a row that it needs is gone, so it is sent to nobody
        return False
    except Exception:  # the e-mail's own code may raise anything; then a person decides
        return True


def _of_bodies(form: str, progress: Progress) -> tuple[frozenset[int], frozenset[int]]:
    """Return the messages whose stored body is for this address and others, and those whose body is for it or has it."""
    shared: set[int] = set()
    bodies: set[int] = set()
    for body in Payload.objects.iterator(chunk_size=50):
        texts = serializer.texts(bytes(body.document))
        recipients = [canonical(entry) for entry in serializer.recipients(bytes(body.document))]
        if form in recipients or names(texts, form):
            messages = body.messages.values_list("pk", flat=True)
            bodies.update(messages)
            shared.update(messages if form in recipients and len(recipients) > 1 else ())
        progress(1)
    return frozenset(shared), frozenset(bodies)


def erase(holding: Holding, progress: Progress) -> int:
    """Erase the address from the settled messages. Return their number. The others stay as they are."""
    erased = 0
    for batch in batched(holding.erasable().order_by("pk").values_list("pk", flat=True), BATCH):
        erased += _erase_batch(frozenset(batch), holding)
        progress(len(batch))
    about = Q(recipient__iexact=holding.address) | Q(original_recipient__iexact=holding.address)
    DeliveryEvent.objects.filter(
        about, message=None
    ).delete()  # it waits for one that is being applied, which is not deleted
    DeliveryEvent.objects.filter(about, message__in=holding.own | holding.copies).update(**events.FORGOTTEN)
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
    for message in Message.objects.filter(pk__in=locked - holding.own):
        Message.objects.filter(pk=message.pk).update(**_without(message, holding))
    DeliveryAttempt.objects.filter(message__in=locked).update(response="")
    DeliveryEvent.objects.filter(message__in=locked).update(**events.FORGOTTEN)
    unused = ~Exists(Message.objects.filter(payload=OuterRef("pk")))
    Payload.objects.only("pk").filter(unused, pk__in=held).delete()
    return len(locked)


def _without(message: Message, holding: Holding) -> Mapping[str, object]:
    """Return the columns of another person's message as they are without the address."""
    empty = {name: NOBODY[name] for name in TEXTS if names(getattr(message, name), holding.address)}
    others = {each: answer for each, answer in message.answers.items() if canonical(each) != holding.address}
    body = {"payload": None} if message.pk in holding.copies | holding.bodies else {}
    return {**empty, **body, "answers": others, "reason": REASON}
