from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError
from django.template.defaultfilters import pluralize

from mailer import outbox
from mailer.delivery import erasure
from mailer.delivery.erasure import Holding
from mailer.management.operator import OperatorCommand, whole_address
from mailer.management.progress import Progress
from mailer.models import WAITING, State, Suppression
from mailer.recipients import suppression

LEFT = 1
"""The exit code if something is left, or if nothing is stored about the address."""


class Command(OperatorCommand):
    help = (
        "Erase what is stored about an address, for a person who asks for it. Their waiting mail is cancelled. The rows of "
        "messages stay for the counts, without address, subject, arguments, body, account and what servers said. A suppressed "
        "address stays suppressed: a keyed hash stands for it. Accounts, the admin's history, logs and backups are not "
        "touched. Exit code: 0, or 1 if messages are left that are being sent or wait for other recipients too. "
        "Example: erase_recipient ann@example.com --dry-run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", type=whole_address, metavar="ADDRESS", help="the whole address, in any spelling")
        parser.add_argument("--dry-run", action="store_true", help="say what would be erased; change nothing")

    def handle(self, *args: Any, address: str, dry_run: bool, **options: Any) -> None:
        reading = Progress(self.stderr, "stored bodies read")
        holding = erasure.find(address, reading)
        reading.end()
        suppressions = Suppression.objects.filter(address=holding.address).count()
        if not (holding.messages().exists() or suppressions):
            raise CommandError(f"Nothing is stored about {address!r}.", returncode=LEFT)
        if dry_run:
            self.stdout.write("\n".join(_preview(holding, suppressions)))
            return
        cancelled = outbox.cancel_all(holding.only_theirs(), reason="cancelled: its recipient is erased")
        erasing = Progress(self.stderr, "messages erased", holding.erasable().count())
        erased = erasure.erase(holding, erasing)
        erasing.end()
        hashed = suppression.erase(holding.address)
        self.stdout.write(
            f"{_messages(cancelled)} cancelled, {_messages(erased)} erased, {hashed} "
            f"suppression{pluralize(hashed)} kept as a hash."
        )
        if left := list(_left(holding)):
            raise CommandError("\n".join([*left, "Run this command again when they are settled."]), returncode=LEFT)


def _preview(holding: Holding, suppressions: int) -> Iterator[str]:
    waiting = holding.only_theirs().filter(state__in=(*WAITING, State.HELD)).count()
    yield f"{_messages(waiting)} would be cancelled and erased, and {holding.erasable().count()} that are settled erased:"
    yield f"    {len(holding.own)} to this address, {len(holding.copies)} to others and this one (its part and the body),"
    yield f"    {len(holding.mentions)} to others in which it is named (what names it)."
    yield f"{suppressions} suppression{pluralize(suppressions)} would be kept as a hash."
    yield from _left(holding, before_cancelling=True)


def _left(holding: Holding, *, before_cancelling: bool = False) -> Iterator[str]:
    """Say which messages cannot be erased now, and why."""
    left = holding.messages().exclude(pk__in=holding.erasable().values("pk")).order_by("pk")
    if before_cancelling:
        left = left.exclude(pk__in=holding.only_theirs().filter(state__in=(*WAITING, State.HELD)).values("pk"))
    for message in left:
        if message.state == State.SENDING:
            why = "is being sent"
        elif message.notify_at:
            why = "is settled, and receivers of message_settled were not called yet"
        else:
            why = f"is {message.state} for other recipients too"
        yield f"Left: message {message.pk} {why}."


def _messages(number: int) -> str:
    return f"{number} message{pluralize(number)}"
