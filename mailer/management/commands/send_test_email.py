from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from mailer import outbox
from mailer.admin.send_test import TestEmailForm
from mailer.emails import TestEmail
from mailer.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = "Send a test e-mail through outbox, broker, worker and transport. Example: send_test_email ann@example.com"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", metavar="ADDRESS")

    def handle(self, *args: Any, address: str, **options: Any) -> None:
        form = TestEmailForm({"address": address})
        if not form.is_valid():
            raise CommandError(f"{address!r}: {' '.join(map(str, form.errors['address']))}")
        message = outbox.enqueue(TestEmail(address, "manage.py send_test_email"))
        self.stdout.write(f"Message {message.pk} is queued for a worker. See /admin/mailer/message/{message.pk}/")
