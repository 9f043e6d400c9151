from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email

from mailer import outbox
from mailer.desk.emails import TestEmail


class Command(BaseCommand):
    help = "Sends a test e-mail to ADDRESS through the outbox, the broker, a worker and the transport."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", metavar="ADDRESS")

    def handle(self, *args: Any, address: str, **options: Any) -> None:
        try:
            validate_email(address)
        except ValidationError:
            raise CommandError(f"{address!r} is not an e-mail address.") from None
        message = outbox.enqueue(TestEmail(address, "manage.py send_test_email"))
        self.stdout.write(
            f"Message {message.pk} is queued; a worker sends it now. Its story: /admin/mailer/message/{message.pk}/"
        )
