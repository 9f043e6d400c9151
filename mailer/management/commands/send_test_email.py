from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from mailer import outbox
from mailer.admin.send_test import TestEmailForm
from mailer.emails import TestEmail


class Command(BaseCommand):
    help = "Sends a test e-mail to ADDRESS through the outbox, the broker, a worker and the transport."
    requires_system_checks = ()  # one broken kind of e-mail must not keep an operator from the others

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", metavar="ADDRESS")

    def handle(self, *args: Any, address: str, **options: Any) -> None:
        form = TestEmailForm({"address": address})
        if not form.is_valid():
            raise CommandError(f"{address!r}: {' '.join(map(str, form.errors['address']))}")
        message = outbox.enqueue(TestEmail(address, "manage.py send_test_email"))
        self.stdout.write(
            f"Message {message.pk} is queued; a worker sends it now. Its story: /admin/mailer/message/{message.pk}/"
        )
