from typing import Any

from django.conf import settings

from config.celery import app
from mailer.models import Queue


def test_beat_asks_for_tasks_and_queues_that_exist() -> None:
    app.loader.import_default_modules()

    schedule: dict[str, Any] = settings.CELERY_BEAT_SCHEDULE
    for entry in schedule.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["queue"] in Queue.values
