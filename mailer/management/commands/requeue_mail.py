from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from mailer import outbox
from mailer.email import KINDS
from mailer.models import Message, State


class Command(BaseCommand):
    help = "Sends held or failed messages again: by id, or all of one kind or state."
    requires_system_checks = ()  # one broken kind of e-mail must not keep an operator from the others

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("ids", nargs="*", type=int, metavar="ID")
        parser.add_argument("--state", choices=[State.HELD.value, State.FAILED.value])
        parser.add_argument("--kind", help="such as accounts.VerifyAddress")

    def handle(self, *args: Any, ids: list[int], state: str | None, kind: str | None, **options: Any) -> None:
        if not (ids or state or kind):
            raise CommandError("Say which: ids, --state or --kind.")
        messages = Message.objects.filter(state__in=(State.HELD, State.FAILED))
        messages = messages.filter(pk__in=ids) if ids else messages
        messages = messages.filter(state=state) if state else messages
        messages = messages.filter(kind__in=_names(kind)) if kind else messages
        done = outbox.retry(messages, reason="sent again by manage.py requeue_mail")
        if ids and done < len(set(ids)):
            self.stderr.write(f"{len(set(ids)) - done} of them are neither held nor failed, or do not exist.")
        self.stdout.write(f"{done} messages queued again.")


def _names(kind: str) -> tuple[str, ...]:
    """Rows from before a kind was renamed are of it too; a kind that is no more has its rows still."""
    return KINDS[kind].names() if kind in KINDS else (kind,)
