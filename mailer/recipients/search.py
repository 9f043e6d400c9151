"""Find a person's mail by what an operator knows: a part of the address, a message's number or Message-ID, a subject.

The time is bounded, whatever the size of the tables: an index finds what is exact or a beginning; a part from the middle is
looked for in the newest messages only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Q, TextField
from django.db.models.functions import Lower

from mailer.addresses import as_transmitted, canonical
from mailer.models import LOWER_RECIPIENT, Message, MessageQuerySet, Suppression
from mailer.recipients.suppression import NO_DOMAIN, rows_of
from mailer.text import replace_unstorable

MOST = 50
"""The largest number of addresses, and of accounts, that one search finds."""
ROWS = 2_000
"""The largest number of messages that are read to find these addresses."""
LATELY, LONG_AGO = 250_000, 500_000
"""The newest messages in which a part of an address is looked for; the larger number if nothing else was found."""
SUBJECTS = 100_000
"""The newest messages in which a part of a subject is looked for."""
LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    messages: MessageQuerySet = field(default_factory=Message.objects.none)
    """Not evaluated yet, the newest one first."""
    addresses: Sequence[str] = ()
    """In canonical form, MOST at most."""
    users: Sequence[AbstractBaseUser] = ()
    suppressions: Sequence[Suppression] = ()

    def __bool__(self) -> bool:
        return bool(self.addresses or self.users or self.suppressions) or self.messages.exists()


def find(text: str) -> Found:
    """Find by the number of a message, a Message-ID with or without brackets, a part of an address, or a part of a subject.

    They are tried in this order, and the first one that finds something is the answer.
    """
    text = replace_unstorable(text).strip()
    searches = (
        _by_number,
        _by_message_id,
        _by_address,
        _by_part_lately,
        _by_part_of_account,
        _by_subject,
        _by_part_long_ago,
    )
    return next(filter(None, (search(text) for search in searches)), Found()) if text else Found()


def of_address(address: str) -> Found:
    """Find what is stored about this address, in any of its spellings."""
    return _of_addresses([canonical(address)], as_transmitted(address))


def messages_to(address: str) -> MessageQuerySet:
    """Return the messages to this address, in any of its spellings, also as one of several recipients that were answered."""
    return _messages().filter(_is_to([canonical(address), as_transmitted(address)]))


def _is_to(addresses: Sequence[str]) -> Q:
    return Q(lower_recipient__in=addresses) | ~Q(answers={}) & Q(answers__has_any_keys=addresses)


def _by_number(text: str) -> Found:
    number = text.removeprefix("#")
    # The length first: Python refuses to read a number of thousands of digits.
    is_number = number.isdecimal() and len(number) <= len(str(LARGEST_ID)) and int(number) <= LARGEST_ID
    return _only(Message.objects.filter(pk=int(number))) if is_number else Found()


def _by_message_id(text: str) -> Found:
    forms = [text, f"<{text.strip('<>')}>"]
    return _only(Message.objects.filter(message_id_header__in=forms)) if "@" in text else Found()


def _only(messages: MessageQuerySet) -> Found:
    """Return these messages only, with what is known of the persons that they are to."""
    recipients = messages.order_by("-pk").values_list("recipient", flat=True)[:MOST]
    person = _of_addresses(list(dict.fromkeys(map(canonical, recipients))))
    return Found(messages, person.addresses, person.users, person.suppressions)


def _by_address(text: str) -> Found:
    return of_address(text) if "@" in text else Found()


def _by_part_lately(text: str) -> Found:
    """Find addresses that begin with the text, also old ones, and those that have it in the middle lately."""
    if not (part := _part(text)):
        return Found()
    suppressed = Suppression.objects.alias(lower_address=Lower("address", output_field=TextField())).order_by()
    suppressed = suppressed.exclude(lower_address__endswith=NO_DOMAIN)
    return _of_some(
        _addresses(_messages().filter(Q(lower_recipient__startswith=part)).order_by()),
        _addresses(_newest(LATELY).filter(Q(lower_recipient__contains=part))),
        suppressed.filter(lower_address__contains=part).values_list("address", flat=True)[:MOST],
        map(_email, _users("startswith", part)),
    )


def _by_part_of_account(text: str) -> Found:
    return _of_some(map(_email, _users("icontains", part))) if (part := _part(text)) else Found()


def _by_part_long_ago(text: str) -> Found:
    part = _part(text)
    older = _newest(LONG_AGO, but=LATELY).filter(Q(lower_recipient__contains=part))
    return _of_some(_addresses(older)) if part else Found()


def _part(text: str) -> str:
    """Return the text as it would be a part of a stored address, or nothing: addresses have no spaces."""
    return "" if any(map(str.isspace, text)) else text.lower()


def _by_subject(text: str) -> Found:
    found = _newest(SUBJECTS).filter(subject__icontains=text)
    return _only(Message.objects.filter(pk__in=list(found.values_list("pk", flat=True)[:ROWS])))


def _of_some(*sources: Iterable[str]) -> Found:
    addresses = list(dict.fromkeys(canonical(address) for source in sources for address in source))
    return _of_addresses(addresses[:MOST])


def _of_addresses(addresses: Sequence[str], *spellings: str) -> Found:
    """Find messages to these addresses and to their accounts. `spellings` are other forms in which they may be stored."""
    addresses = [address for address in addresses if address]  # it is empty in a row whose recipient was erased
    if not addresses:
        return Found()
    forms = [*addresses, *spellings]
    users = _users("in", forms)
    messages = _messages().filter(_is_to(forms) | Q(user__in=[user.pk for user in users]))
    suppressions = list(rows_of(*addresses))
    found = Found(messages, addresses, users, suppressions)
    return found if users or suppressions or messages.exists() else Found()


def _messages() -> MessageQuerySet:
    return Message.objects.alias(lower_recipient=LOWER_RECIPIENT)


def _newest(number: int, *, but: int = 0) -> MessageQuerySet:
    """Return the newest messages, without the very newest that were looked at already."""
    last = Message.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    return _messages().filter(pk__gt=last - number, pk__lte=last - but)


def _addresses(messages: MessageQuerySet) -> Iterable[str]:
    """Return the different addresses of these messages. Few rows are read, because all of them may be to one address."""
    return dict.fromkeys(messages.values_list(LOWER_RECIPIENT, flat=True)[:ROWS])


def _users(lookup: str, value: object) -> list[AbstractBaseUser]:
    """Find accounts by their address, in the project's own model of users."""
    model = get_user_model()
    return list(model._default_manager.filter(**{f"{model.get_email_field_name()}__{lookup}": value})[:MOST])


def _email(user: AbstractBaseUser) -> str:
    return str(getattr(user, user.get_email_field_name()) or "")
