from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.template.defaultfilters import pluralize

from accounts import second_factor
from accounts.addresses import canonical
from accounts.models import User


class Command(BaseCommand):
    help = (
        "Remove the second factor of a user who lost it, end their sessions and notify them. They add a new one at their next "
        "log-in. Make sure first that it is them who ask. Example: reset_second_factor ann@example.com"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("address", metavar="ADDRESS", help="the e-mail address of the account")

    def handle(self, *args: Any, address: str, **options: Any) -> None:
        try:
            user = User.objects.get(email=canonical(address.strip()))
        except (ValidationError, User.DoesNotExist):
            raise CommandError(f"No account has the address {address}.") from None
        removed = second_factor.reset(user)
        self.stdout.write(f"{removed} device{pluralize(removed)} removed, every session ended.")
