import threading
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection

from config.celery import app
from mailer import celery as module
from mailer.models import Queue
from tests.environment import new_directory
from tests.smtp_sink import Sink
from tests.stack import Stack

ENQUEUE = """
from mailer import outbox
from mailer.emails import TestEmail
for number in range({number}):
    outbox.enqueue(TestEmail(f"person-{{number}}@example.com", "a test"))
"""


def test_beat_uses_tasks_and_queues_that_exist() -> None:
    app.loader.import_default_modules()

    schedule: dict[str, Any] = app.conf.beat_schedule
    assert schedule.keys() == {"purge", "purge-accounts"}
    for entry in schedule.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["queue"] in Queue.values


def test_celery_shows_its_own_settings_and_no_others() -> None:
    shown = app.conf.table(with_defaults=True)

    assert {name for name in shown if name.isupper()} <= {"CELERY_DB_REUSE_MAX"}
    assert not {"SECRET_KEY", "DATABASES", "FLOWER_BASIC_AUTH", "secret_key"} & shown.keys()


def test_a_worker_keeps_its_database_connection_between_tasks(sink: Sink) -> None:
    with Stack(new_directory("connections"), sink, POSTCOMMIT_SWEEP_EVERY="5") as stack:  # each sweep needs one
        stack.start("worker", "beat")
        stack.run(ENQUEUE.format(number=100))
        stack.wait_for(lambda: len(sink.received) == 100, "all mails")
        [statistics] = stack.sql("SELECT sessions FROM pg_stat_database WHERE datname = current_database()")

    # Two of each process of the worker, and some of sweeps and commands, but not one for each mail.
    assert statistics["sessions"] < 25


@pytest.mark.django_db
def test_a_task_of_the_project_gets_a_checked_connection_and_mail_a_recent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bool] = []
    monkeypatch.setattr(module, "_checks", threading.local())
    monkeypatch.setattr(module, "close_old_connections", lambda: checked.append(True))

    def is_checked(task: str) -> bool:
        checked.clear()
        module._drop_failed_connections(sender=SimpleNamespace(name=task))
        return bool(checked)

    names = ["mailer.tasks.deliver_message"] * 2 + ["shop.tasks.bill", "mailer.tasks.purge", "mailer.tasks.deliver_due"]
    assert list(map(is_checked, names)) == [True, False, True, True, False]
    monkeypatch.setattr(connection, "errors_occurred", True)
    assert is_checked("mailer.tasks.deliver_message")
