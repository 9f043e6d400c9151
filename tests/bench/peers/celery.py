"""The Celery application of the peers: `celery -A tests.bench.peers worker`."""

from celery import Celery

app = Celery("peers")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
