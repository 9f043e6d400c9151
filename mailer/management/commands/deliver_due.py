from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from mailer.delivery.pipeline import deliver
from mailer.models import Message


class Command(BaseCommand):
    help = "Delivers every message that is due, here and now, with no broker and no worker."
    requires_system_checks = ()  # one broken kind of e-mail must not keep an operator from the others

    def handle(self, *args: Any, **options: Any) -> None:
        due = Message.objects.waiting().filter(due_at__lte=timezone.now()).by_urgency().values_list("pk", flat=True)
        message_ids = list(due)
        for message_id in message_ids:
            deliver(message_id, longest_wait=timedelta(days=1))
        self.stdout.write(
            f"{len(message_ids)} due messages were tried; manage.py mail_status tells what became of them."
        )
