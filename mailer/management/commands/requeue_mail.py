from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError
from django.db.models import Count, Q
from django.db.models.functions import Coalesce
from django.template.defaultfilters import pluralize

from mailer import outbox
from mailer.email import KINDS
from mailer.management.operator import OperatorCommand, moment, number_of_a_message, whole_address, words
from mailer.management.progress import Progress
from mailer.models import Message, MessageQuerySet, State
from mailer.recipients.search import messages_to

STATES = (State.HELD, State.FAILED)
SAMPLE = 5
"""The number of messages that --dry-run shows."""


class Command(OperatorCommand):
    help = (
        "Retry held or failed messages: those with these ids, or all that match every option that is given. Times are when a "
        "message failed or was held. Example: requeue_mail --state failed --kind accounts.VerifyAddress --since 2h "
        "--reason 'mailbox full' --dry-run"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("ids", nargs="*", type=number_of_a_message, metavar="ID", help="the number of a message")
        parser.add_argument("--state", choices=[state.value for state in STATES])
        parser.add_argument("--kind", type=words, help="only messages of this kind, such as accounts.VerifyAddress")
        parser.add_argument(
            "--to", type=whole_address, metavar="ADDRESS", help="only messages to this address, whole, in any spelling"
        )
        parser.add_argument("--since", type=moment, metavar="TIME", help="2h (ago), 2026-11-28 or 2026-11-28T14:30")
        parser.add_argument("--until", type=moment, metavar="TIME", help="the same; both may be given")
        parser.add_argument(
            "--reason", type=words, metavar="TEXT", help="only messages whose reason has this part, in any case"
        )
        parser.add_argument("--dry-run", action="store_true", help="say how many and show some; change nothing")

    def handle(self, *args: Any, ids: list[int], dry_run: bool, **options: Any) -> None:
        chosen = {name: options[name] for name in ("state", "kind", "to", "since", "until", "reason") if options[name]}
        if not (ids or chosen):
            raise CommandError("Give ids, --state, --kind, --to, --since, --until or --reason.")
        messages = _matching(ids, **chosen)
        if dry_run:
            self.stdout.write("\n".join(_preview(messages)))
            return
        progress = Progress(self.stderr, "messages", messages.count())
        done = outbox.retry(messages, reason="retried by manage.py requeue_mail", progress=progress)
        progress.end()
        if skipped := max(len(set(ids)), progress.done) - done:
            self.stderr.write(
                f"{skipped} skipped: not found, not held or failed, its body was erased, or its key is taken."
            )
        self.stdout.write(f"{done} message{pluralize(done)} queued again.")


def _matching(ids: list[int], **chosen: Any) -> MessageQuerySet:
    messages = messages_to(chosen["to"]) if "to" in chosen else Message.objects.all()
    messages = messages.filter(state__in=[chosen["state"]] if "state" in chosen else STATES)
    if ids:
        messages = messages.filter(pk__in=ids)
    if kind := chosen.get(
        "kind"
    ):  # rows may hold a former name of the kind, or the name of a kind that does not exist any more
        messages = messages.filter(kind__in=KINDS[kind].names() if kind in KINDS else [kind])
    messages = messages.alias(ended_at=Coalesce("settled_at", "due_at"))  # what is held is not settled
    if "since" in chosen:
        messages = messages.filter(Q(ended_at__gte=chosen["since"]))
    if "until" in chosen:
        messages = messages.filter(Q(ended_at__lte=chosen["until"]))
    return messages.filter(reason__icontains=chosen["reason"]) if "reason" in chosen else messages


def _preview(messages: MessageQuerySet) -> Iterator[str]:
    numbers = messages.order_by().values_list("state", "kind").annotate(number=Count("pk")).order_by("-number")
    total = sum(number for _, _, number in numbers)
    yield f"{total} message{pluralize(total)} would be queued again, except those whose body was erased or whose key is taken."
    yield from (f"{number:>8}  {state}  {kind}" for state, kind, number in numbers)
    for message in messages[:SAMPLE]:
        yield f"For example #{message.pk} to {message.recipient}: {message.reason or 'no reason is known'}"
