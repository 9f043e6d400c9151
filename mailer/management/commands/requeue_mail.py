from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize

from mailer import outbox
from mailer.email import KINDS
from mailer.models import Message, State


class Command(BaseCommand):
    help = "Retry held or failed messages, by id, kind or state. Example: requeue_mail --kind accounts.VerifyAddress"
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("ids", nargs="*", type=int, metavar="ID", help="the number of a message")
        parser.add_argument("--state", choices=[State.HELD.value, State.FAILED.value])
        parser.add_argument("--kind", help="only messages of this kind")

    def handle(self, *args: Any, ids: list[int], state: str | None, kind: str | None, **options: Any) -> None:
        if not (ids or state or kind):
            raise CommandError("Give ids, --state or --kind.")
        messages = Message.objects.filter(state__in=(State.HELD, State.FAILED))
        messages = messages.filter(pk__in=ids) if ids else messages
        messages = messages.filter(state=state) if state else messages
        if kind:  # rows may hold a former name of the kind, or the name of a kind that does not exist any more
            messages = messages.filter(kind__in=KINDS[kind].names() if kind in KINDS else [kind])
        done = outbox.retry(messages, reason="retried by manage.py requeue_mail")
        if ids and done < len(set(ids)):
            self.stderr.write(f"{len(set(ids)) - done} skipped: not found, not held or failed, or its key is taken.")
        self.stdout.write(f"{done} message{pluralize(done)} queued again.")
