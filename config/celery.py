"""The Celery application: `celery -A config worker|beat|flower`."""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_postrun, task_prerun

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("postcommit")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@task_prerun.connect
@task_postrun.connect
def keep_good_connections(**_: Any) -> None:
    """What Django does around a request: drops connections that failed or grew too old, and keeps the others.

    Celery would open a new one for each task; CELERY_DB_REUSE_MAX stops it.
    """
    from django.db import close_old_connections  # the settings are not ready when this module is loaded

    close_old_connections()


@setup_logging.connect
def keep_logging_of_settings(**_: Any) -> None:
    """Having a receiver at all is what stops Celery from replacing the logging that the settings configured."""
