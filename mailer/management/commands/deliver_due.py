from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from mailer.delivery.pipeline import deliver
from mailer.models import Message, Queue


class Command(BaseCommand):
    help = "Deliver all due messages in this process, without broker and worker."
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def handle(self, *args: Any, **options: Any) -> None:
        due = Message.objects.waiting().filter(due_at__lte=timezone.now()).order_by("due_at")
        message_ids = [pk for queue in Queue for pk in due.filter(queue=queue).values_list("pk", flat=True)]
        for message_id in message_ids:
            deliver(message_id, longest_wait=timedelta(days=1))
        self.stdout.write(f"{len(message_ids)} due messages tried; see manage.py mail_status for the results.")
