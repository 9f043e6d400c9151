import math
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.template.defaultfilters import pluralize

from mailer.delivery import pipeline
from mailer.delivery.housekeeping import housekeeping
from mailer.models import Queue


class Command(BaseCommand):
    help = "Deliver all due messages in this process, without broker and worker."
    requires_system_checks = ()  # must work while one kind of e-mail is broken

    def handle(self, *args: Any, **options: Any) -> None:
        housekeeping.start(list(Queue))
        try:
            tried = pipeline.deliver_due(list(Queue), seconds=math.inf, longest_wait=timedelta(days=1))
        finally:
            housekeeping.stop()
        self.stdout.write(f"{tried} due message{pluralize(tried)} tried; see manage.py mail_status for the results.")
