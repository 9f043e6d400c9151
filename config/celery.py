"""The Celery application: `celery -A config worker|beat|flower`."""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging

from mailer.celery import configure

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("postcommit")
configure(app)


@setup_logging.connect
def keep_logging_of_settings(**_: Any) -> None:
    """Keep the logging of the settings: Celery replaces it unless this signal has a receiver."""
